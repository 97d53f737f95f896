// The server's API as an engine (engine.js).
import { Track, isOver } from "./engine.js";

class ServedTrack extends Track {
  constructor(job, track) {
    super(track);
    this.address = `api/jobs/${job.id}/${track.folder}`;
  }

  spectrogram(stem) { return `${this.address}/${stem}.png`; }

  async bytes(stem, first, last) {
    const response = await fetch(`${this.address}/${stem}.pcm`, { headers: { Range: `bytes=${first}-${last - 1}` } });
    if (response.status === 404) throw new Error("its files have been removed. Separate the song once more.");
    if (response.status !== 206) throw new Error(`the server answered ${response.status}.`);
    return response.arrayBuffer();
  }
}

function asSong(job) {
  const [track, address] = [job.track ?? job.preview, `api/jobs/${job.id}`];
  const downloads = Object.entries(job.stems).map(([stem, file]) => ({ stem, ...file, url: `${address}/stems/${stem}` }));
  const mix = (gains) => `${address}/mix.wav?${new URLSearchParams(gains)}`;
  return { ...job, track: track && new ServedTrack(job, track), isWhole: Boolean(job.track), downloads, archive: `${address}/all.zip`, mix };
}

async function ask(path, method = "GET") {
  const response = await fetch(`api/${path}`, { method });
  const content = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

export default class ServerEngine {
  privacy = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname) ? "Your songs stay on this computer." : "";

  hasRegions = true;

  models() { return ask("models"); }

  reports() { return ask("reports"); }

  preview(song, startS) { return ask(`jobs/${song.id}/preview?from=${startS}`, "POST"); }

  remove(song) { return ask(`jobs/${song.id}`, "DELETE"); }

  async songs() { return (await ask("jobs")).map(asSong); }

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
      request.open("POST", `api/jobs?${new URLSearchParams({ ...options, name: file.name })}`);
      request.send(file);
    });
    this.follow(asSong(job), onprogress);
  }

  follow(song, onprogress) {
    onprogress(song);
    if (isOver(song)) return;
    const events = new EventSource(`api/jobs/${song.id}/events`);
    const take = (event) => {
      const now = asSong(JSON.parse(event.data));
      if (isOver(now)) events.close();
      onprogress(now);
    };
    for (const state of ["queued", "working", "done", "failed", "cancelled"]) events.addEventListener(state, take);
  }
}
