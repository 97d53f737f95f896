// The browser itself as an engine (engine.js): songs are decoded by Web Audio and separated in a worker (separation.js).
// What comes of them stays in the browser's private file system, a folder for each song, until it is removed.
import { Track } from "./engine.js";
import { WAV_HEADER, wavHeader } from "./listening.js";

const BLOCK_S = 10;
const [FOLDER, FACTS] = ["vocal-extraction", "song.json"];

async function root() {
  if (!navigator.storage?.getDirectory) throw new Error("This browser keeps no files for this page. Open it over https, in no private window, or in a newer browser.");
  return (await navigator.storage.getDirectory()).getDirectoryHandle(FOLDER, { create: true });
}

class StoredTrack extends Track {
  constructor(facts, files) {
    super(facts);
    this.files = files;
    this.pictures = Object.fromEntries(this.stems.map((stem) => [stem, URL.createObjectURL(files[`${stem}.png`])]));
  }

  spectrogram(stem) { return this.pictures[stem]; }

  async bytes(stem, first, last) {
    const n = 2 / this.n_channels;
    const content = await this.files[`${stem}.wav`].slice(WAV_HEADER + first / n, WAV_HEADER + last / n).arrayBuffer();
    if (n === 1) return content;
    const mono = new Int16Array(content);
    return Int16Array.from({ length: 2 * mono.length }, (_, i) => mono[i >> 1]).buffer;
  }

  // The address of a WAV file with the sum of all stems, each times its gain.
  async mix(gains) {
    const parts = [];
    for (let start = 0; start < this.n_samples; start += BLOCK_S * this.sample_rate) {
      const n = Math.min(BLOCK_S * this.sample_rate, this.n_samples - start);
      const stems = await this.read(start, n);
      const sample = (i) => this.stems.reduce((sum, stem, number) => sum + gains[stem] * stems[number][i % 2][i >> 1], 0);
      parts.push(Int16Array.from({ length: 2 * n }, (_, i) => Math.min(Math.max(Math.round(32768 * sample(i)), -32768), 32767)));
    }
    return URL.createObjectURL(new Blob([wavHeader(this.n_samples, 2, this.sample_rate), ...parts], { type: "audio/wav" }));
  }
}

// A song whose facts and files lie in a folder; null without facts.
async function stored(folder) {
  const files = {};
  for await (const [name, handle] of folder.entries()) files[name] = await handle.getFile();
  if (!files[FACTS]) return null;
  const song = JSON.parse(await files[FACTS].text());
  const track = new StoredTrack(song.track, files);
  const downloads = track.stems.map((stem) => {
    const file = files[`${stem}.wav`];
    return { stem, file: file.name, bytes: file.size, url: URL.createObjectURL(new Blob([file], { type: "audio/wav" })) };
  });
  return { ...song, track, downloads, isWhole: true, mix: (gains) => track.mix(gains) };
}

// A song's way through a worker.
class Separation {
  stop() {
    this.isStopped = true;
    this.worker?.terminate();
    this.reject?.(new Error("Cancelled."));
  }

  ask(task, parameters, transfer = [], onshare = null) {
    return new Promise((resolve, reject) => {
      this.reject = reject;
      this.worker.onerror = (event) => reject(new Error(event.message || "The separation could not be loaded."));
      this.worker.onmessage = ({ data }) => {
        if (data.share !== undefined) onshare(data.share);
        else if (data.error) reject(new Error(data.error));
        else resolve(data.result);
      };
      this.worker.postMessage({ task, ...parameters }, transfer);
    });
  }

  async run(file, model, plan, facts, tell) {
    if (this.isStopped) throw new Error("Cancelled.");
    this.worker = new Worker(new URL("./separation.js", import.meta.url), { type: "module" });
    tell({ state: "working", stage: "Reading the song" });
    const song = await this.hand(await decoded(file, model.sample_rate), { address: new URL(model.folder, document.baseURI).href, chunks: model.chunks, plan, facts, folder: FOLDER });
    const began = performance.now();
    await this.ask("separate", {}, [], (share) => {
      const left = ((performance.now() - began) / 1000) * (1 / share - 1);
      tell({ state: "working", stage: share < 0.95 ? "Separating" : "Preparing the players", done_s: share * song, total_s: song, remaining_s: share > 0.1 && share < 0.95 ? left : null });
    });
    this.worker.terminate();
  }

  // Gives the samples of a song to the worker, which stores them; returns how many seconds they are.
  async hand(audio, parameters) {
    const { length, sampleRate, numberOfChannels: nChannels } = audio;
    await this.ask("open", { ...parameters, nSamples: length, nChannels });
    for (let start = 0; start < length; start += BLOCK_S * sampleRate) {
      const channels = Array.from({ length: nChannels }, (_, channel) => audio.getChannelData(channel).slice(start, start + BLOCK_S * sampleRate));
      await this.ask("store", { start, channels }, channels.map(({ buffer }) => buffer));
    }
    return length / sampleRate;
  }
}

// The channels of a song, at most two, at a model's rate.
async function decoded(file, rate) {
  try {
    const audio = await new OfflineAudioContext(2, 1, rate).decodeAudioData(await file.arrayBuffer());
    if (audio.numberOfChannels <= 2) return audio;
    const mixing = new OfflineAudioContext(2, audio.length, rate);
    const source = new AudioBufferSourceNode(mixing, { buffer: audio });
    source.connect(mixing.destination);
    source.start();
    return await mixing.startRendering();
  } catch {
    throw new Error(`${file.name} holds no audio that this browser can decode. Choose an audio file such as MP3, WAV, FLAC or M4A.`);
  }
}

export default class BrowserEngine {
  privacy = "Drop a song: it never leaves this machine.";

  running = new Map(); // by song: its way through a worker

  constructor() {
    navigator.serviceWorker?.register("sw.js");
  }

  async models() {
    this.known ??= await (await fetch("models.json")).json();
    return this.known;
  }

  // What lies there without an end, and is in no tab's hands, was broken off.
  async songs() {
    const [folders, songs, { held }] = [await root(), [], await navigator.locks.query()];
    for await (const [name, folder] of folders.entries()) {
      const song = await stored(folder);
      if (song) songs.push(song);
      else if (!held.some((lock) => lock.name === name)) await folders.removeEntry(name, { recursive: true });
    }
    return songs.sort((one, other) => one.made - other.made);
  }

  follow(song, onprogress) { onprogress(song); }

  // Songs follow each other, those of other tabs too: one fills a phone's memory.
  async separate(file, { model: modelName, stems, without }, onprogress) {
    await root();
    const model = (await this.models()).find(({ name }) => name === modelName);
    const plan = model.plans[new URLSearchParams({ ...(stems && { stems }), ...(without && { without }) })];
    const facts = { id: crypto.randomUUID(), name: file.name.replace(/\.\w+$/, ""), made: Date.now(), model: modelName };
    const separation = new Separation();
    this.running.set(facts.id, separation);
    const tell = (state) => onprogress({ ...facts, downloads: [], ...state });
    tell({ state: "queued", stage: "Waiting for other songs" });
    try {
      await navigator.locks.request("separation", () => navigator.locks.request(facts.id, () => separation.run(file, model, plan, facts, tell)));
      onprogress(await stored(await (await root()).getDirectoryHandle(facts.id)));
    } catch (error) {
      await this.remove(facts);
      throw error;
    }
  }

  async remove({ id }) {
    this.running.get(id)?.stop();
    this.running.delete(id);
    for (let n = 0; n < 20; n++) {
      try {
        await (await root()).removeEntry(id, { recursive: true });
        return;
      } catch (error) {
        if (error.name === "NotFoundError") return;
        await new Promise((resolve) => setTimeout(resolve, 100)); // a worker that was stopped still holds its files
      }
    }
  }
}
