// The page's access to the separation: an engine has `models()`, `songs()`, `separate(file, options, onprogress)`,
// `follow`, `preview` and `remove`. This one is the local server's API; one that runs in the browser may stand beside it.

// What the player plays: stems of equal length, read by position.
class ServedTrack {
  constructor(job, track) {
    Object.assign(this, track, { address: `/api/jobs/${job.id}/${track.folder}` });
  }

  get durationS() {
    return this.n_samples / this.sample_rate;
  }

  spectrogram(stem) {
    return `${this.address}/${stem}.png`;
  }

  // Resolves to left and right of each stem; what lies outside of the track is silent.
  async read(start, n) {
    const first = Math.max(0, start);
    const last = Math.min(start + n, this.n_samples);
    return Promise.all(this.stems.map(async (stem) => {
      const channels = [new Float32Array(n), new Float32Array(n)];
      if (first >= last) return channels;
      const range = `bytes=${4 * first}-${4 * last - 1}`;
      const response = await fetch(`${this.address}/${stem}.pcm`, { headers: { Range: range } });
      if (response.status === 404) throw new Error("its files have been removed. Separate the song once more.");
      if (response.status !== 206) throw new Error(`the server answered ${response.status}.`);
      const samples = new Int16Array(await response.arrayBuffer());
      samples.forEach((sample, i) => { channels[i % 2][first - start + (i >> 1)] = sample / 32768; });
      return channels;
    }));
  }
}

export class ServerEngine {
  static isLocal = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

  async ask(path, options) {
    const response = await fetch(`/api/${path}`, options);
    const content = response.status === 204 ? null : await response.json();
    if (!response.ok) throw new Error(content.error);
    return content;
  }

  models() {
    return this.ask("models");
  }

  reports() {
    return this.ask("reports");
  }

  // The songs of this session, whatever their state: they outlive the page.
  async songs() {
    return (await this.ask("jobs")).map((job) => this.asSong(job));
  }

  asSong(job) {
    const track = job.track ?? job.preview;
    const address = `/api/jobs/${job.id}`;
    const downloads = Object.entries(job.stems).map(([stem, file]) => ({ stem, ...file, url: `${address}/stems/${stem}` }));
    return { ...job, track: track && new ServedTrack(job, track), isWhole: Boolean(job.track), downloads, archive: `${address}/all.zip`, mix: `${address}/mix.wav` };
  }

  // Uploads and separates a file; calls `onprogress(song)` with each new state, the upload's included.
  async separate(file, options, onprogress) {
    const { stems, ...others } = options; // stems is a part of the query: "", "stems=all", "without=drums"
    const query = `${new URLSearchParams({ ...others, name: file.name })}&${stems}`;
    const job = await new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const uploading = { id: null, name: file.name, state: "uploading", stage: "Uploading", total_s: 1, downloads: [] };
      request.upload.onprogress = (event) => onprogress({ ...uploading, done_s: event.loaded / event.total, cancel: () => request.abort() });
      request.onload = () => {
        const content = JSON.parse(request.responseText);
        if (request.status === 201) resolve(content);
        else reject(new Error(content.error));
      };
      request.onerror = () => reject(new Error("The server cannot be reached, or broke off the upload."));
      request.onabort = () => reject(new Error("The upload was cancelled."));
      request.open("POST", `/api/jobs?${query}`);
      request.send(file);
    });
    return this.follow(this.asSong(job), onprogress);
  }

  // Calls `onprogress` until the song is over; resolves to its last state.
  follow(song, onprogress) {
    onprogress(song);
    return new Promise((resolve) => {
      const events = new EventSource(`/api/jobs/${song.id}/events`);
      const take = (event) => {
        const now = this.asSong(JSON.parse(event.data));
        onprogress(now);
        if (!["queued", "working"].includes(now.state)) {
          events.close();
          resolve(now);
        }
      };
      for (const state of ["queued", "working", "done", "failed", "cancelled"]) events.addEventListener(state, take);
    });
  }

  preview(song, startS) {
    return this.ask(`jobs/${song.id}/preview?from=${startS}`, { method: "POST" });
  }

  remove(song) {
    return this.ask(`jobs/${song.id}`, { method: "DELETE" });
  }
}
