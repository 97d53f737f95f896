// The server's API as an engine (engine.js).
import { Track, isOver } from "./engine.js";

const UNREACHABLE = "The server cannot be reached, or broke off.";

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

async function ask(path, options) {
  const response = await fetch(`api/${path}`, options).catch(() => { throw new Error(UNREACHABLE); });
  const content = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

export default class ServerEngine {
  privacy = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname) ? "Your songs stay on this computer." : "";

  hasRegions = true;

  models() { return ask("models"); }

  reports() { return ask("reports"); }

  preview(song, startS) { return ask(`jobs/${song.id}/preview?from=${startS}`, { method: "POST" }); }

  remove(song) { return ask(`jobs/${song.id}`, { method: "DELETE" }); }

  async songs() { return (await ask("jobs")).map(asSong); }

  // By XMLHttpRequest, since fetch does not say how much has been sent.
  async separate(file, options, onprogress) {
    const upload = new XMLHttpRequest();
    const state = { name: file.name, state: "uploading", stage: "Uploading", downloads: [], cancel: () => upload.abort() };
    onprogress(state);
    upload.upload.onprogress = ({ loaded, total }) => onprogress({ ...state, done_s: loaded, total_s: total });
    upload.open("POST", `api/jobs?${new URLSearchParams({ ...options, name: file.name })}`);
    upload.responseType = "json";
    await new Promise((resolve, reject) => {
      upload.onload = resolve;
      upload.onabort = () => reject(new Error("The upload was cancelled."));
      upload.onerror = () => reject(new Error(UNREACHABLE));
      upload.send(file);
    });
    if (upload.status >= 400) throw new Error(upload.response?.error ?? UNREACHABLE);
    this.follow(asSong(upload.response), onprogress);
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
