// The page's access to the separation: an engine has `models()`, `songs()`, `separate(file, options, onprogress)`,
// `follow`, `preview`, `remove` and `reports()`. This one is the local server's API; one in the browser may stand beside it.

export const isOver = ({ state }) => ["done", "failed", "cancelled"].includes(state);

// What the player plays: stems of equal length, read by position.
class ServedTrack {
  constructor(job, track) {
    Object.assign(this, track, { address: `/api/jobs/${job.id}/${track.folder}`, durationS: track.n_samples / track.sample_rate });
  }

  spectrogram(stem) {
    return `${this.address}/${stem}.png`;
  }

  // Resolves to left and right of each stem; what lies outside of the track is silent.
  read(start, n) {
    const [first, last] = [Math.max(0, start), Math.min(start + n, this.n_samples)];
    return Promise.all(this.stems.map(async (stem) => {
      const channels = [new Float32Array(n), new Float32Array(n)];
      if (first >= last) return channels;
      const response = await fetch(`${this.address}/${stem}.pcm`, { headers: { Range: `bytes=${4 * first}-${4 * last - 1}` } });
      if (response.status === 404) throw new Error("its files have been removed. Separate the song once more.");
      if (response.status !== 206) throw new Error(`the server answered ${response.status}.`);
      const samples = new Int16Array(await response.arrayBuffer());
      samples.forEach((sample, i) => { channels[i % 2][first - start + (i >> 1)] = sample / 32768; });
      return channels;
    }));
  }
}

function asSong(job) {
  const [track, address] = [job.track ?? job.preview, `/api/jobs/${job.id}`];
  const downloads = Object.entries(job.stems).map(([stem, file]) => ({ stem, ...file, url: `${address}/stems/${stem}` }));
  return { ...job, track: track && new ServedTrack(job, track), isWhole: Boolean(job.track), downloads, archive: `${address}/all.zip`, mix: `${address}/mix.wav` };
}

export class ServerEngine {
  isLocal = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

  async ask(path, method = "GET") {
    const response = await fetch(`/api/${path}`, { method });
    const content = response.status === 204 ? null : await response.json();
    if (!response.ok) throw new Error(content.error);
    return content;
  }

  models() { return this.ask("models"); }

  reports() { return this.ask("reports"); }

  preview(song, startS) { return this.ask(`jobs/${song.id}/preview?from=${startS}`, "POST"); }

  remove(song) { return this.ask(`jobs/${song.id}`, "DELETE"); }

  // The songs of this session, whatever their state: they outlive the page.
  async songs() { return (await this.ask("jobs")).map(asSong); }

  // Uploads and separates a file; calls `onprogress(song)` with each new state, the upload's included.
  async separate(file, options, onprogress) {
    const job = await new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const uploading = { name: file.name, state: "uploading", stage: "Uploading", total_s: 1, downloads: [], cancel: () => request.abort() };
      request.upload.onprogress = (event) => onprogress({ ...uploading, done_s: event.loaded / event.total });
      request.onload = () => {
        const content = JSON.parse(request.responseText);
        if (request.status === 201) resolve(content);
        else reject(new Error(content.error));
      };
      request.onerror = () => reject(new Error("The server cannot be reached, or broke off the upload."));
      request.onabort = () => reject(new Error("The upload was cancelled."));
      request.open("POST", `/api/jobs?${new URLSearchParams({ ...options, name: file.name })}`);
      request.send(file);
    });
    this.follow(asSong(job), onprogress);
  }

  // Calls `onprogress` until the song is over.
  follow(song, onprogress) {
    onprogress(song);
    if (isOver(song)) return;
    const events = new EventSource(`/api/jobs/${song.id}/events`);
    const take = (event) => {
      const now = asSong(JSON.parse(event.data));
      if (isOver(now)) events.close();
      onprogress(now);
    };
    for (const state of ["queued", "working", "done", "failed", "cancelled"]) events.addEventListener(state, take);
  }
}
