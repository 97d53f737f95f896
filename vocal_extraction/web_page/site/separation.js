// A worker that separates one song as the command line does, on the graphs of ONNX that docs/edge.md describes.
//
// Whatever is as long as the song lies in files of the browser's private file system and is worked on in chunks, so memory
// does not grow with the song. Two channels are taken as their views (mid and side, or themselves), which go through the
// Fourier transform as one complex signal.
import { Fft, HighPass, covariance, hann, levelOf } from "./signal.js";
import { Channels, DiskArray, Model } from "./graphs.js";
import { WAV_HEADER, drawSpectrograms, wavHeader } from "./listening.js";
import { FULL, openFile, saveFile } from "./storage.js";

const CHUNK_S = 2;
const STEP_FRAMES = 32; // networks that halve time up to five times see a chunk as they do the song if it begins at these
const PEAKS = 800;
const FULL_SCALE = 32768;
const SHARES = { input: 0.15, encode: 0.3, layers: 0.65, masks: 0.95 }; // of the time, at the end of each

function reversed(rows, n) {
  const [turned, length] = [new Float32Array(rows.length), rows.length / n];
  for (let i = 0; i < n; i++) turned.set(rows.subarray(i * length, (i + 1) * length), (n - 1 - i) * length);
  return turned;
}

const largest = (samples) => samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);

class Song {
  constructor(folder, model, { nSamples, nChannels, chunks, plan, facts }) {
    Object.assign(this, { folder, model, nSamples, nChannels, plan, facts, outputs: [] });
    const { sample_rate: rate, hop_length: hop, window_length: length, window_type: type } = model.signal;
    Object.assign(this, { rate, hop, length, fft: new Fft(length), nBins: length / 2 + 1 });
    const periodic = Float64Array.from([0, ...hann(length - 1)]);
    this.window = type === "sqrt_hann" ? periodic.map(Math.sqrt) : periodic;
    this.windowSum = this.window.reduce((sum, value) => sum + value, 0);
    this.nFrames = Math.ceil(nSamples / hop) + 1;
    this.lookahead = model.lookahead ?? 0; // frames that masks come late; silence behind the song makes up for them
    this.beside = Math.ceil(length / 2 / hop); // frames that reach into the samples of a chunk's own from either side
    this.isLayered = model.layers.length > 0;
    const framesOf = (seconds) => Math.max(1, Math.round((seconds * rate) / hop));
    // Chunks as on a CPU: 8 bits depend on what else is in a chunk.
    this.chunkLength = Math.ceil(this.nFrames / Math.ceil(this.nFrames / framesOf(CHUNK_S)));
    this.parts = this.isLayered ? this.partsOf(this.chunkLength, this.beside, 1) : this.partsOf(framesOf(chunks.chunk_s), framesOf(chunks.context_s), STEP_FRAMES);
    this.estimated = [...new Set(plan.flatMap((stem) => stem.sources))];
  }

  array(name, rowLength) { return DiskArray.create(this.folder, name, rowLength); }

  samples(name) { return Channels.create(this.folder, name, this.nChannels, this.nSamples); }

  // Frames or samples of the whole song, chunk by chunk: [start, stop].
  chunks(n, size) {
    return Array.from({ length: Math.ceil(n / size) }, (_, i) => [i * size, Math.min((i + 1) * size, n)]);
  }

  // Chunks whose frames are estimated, each with those that the network sees for them: [start, stop].
  partsOf(size, context, step) {
    const [n, whole] = [this.nFrames, (frames) => Math.ceil(frames / step) * step];
    const beside = whole(Math.max(context, this.beside));
    return this.chunks(n, whole(Math.ceil(n / Math.ceil(n / size)))).map(([start, stop]) => ({ kept: [start, stop], seen: [Math.max(start - beside, 0), Math.min(stop + beside, n)] }));
  }

  async separate(tick) {
    this.tick = tick;
    await this.measure();
    await this.removeSlowWaves();
    if (this.isLayered) {
      await this.encode();
      await this.throughLayers();
    }
    const loudest = await this.applyMasks();
    await this.write(loudest);
  }

  // The song's level, and which views make up each item of the network's batch; a view of -1 is silent.
  async measure() {
    const { signal, n_channels: together } = this.model;
    const nSeconds = Math.ceil(this.nSamples / this.rate);
    const edges = Array.from({ length: nSeconds + 1 }, (_, i) => Math.floor((i * this.nSamples) / nSeconds));
    const fft = new Fft(2 ** Math.ceil(Math.log2(this.rate)));
    let window = [];
    const seconds = edges.slice(1).map((stop, i) => {
      if (window.length !== stop - edges[i]) window = hann(stop - edges[i]);
      return covariance(this.mixture.read(edges[i], stop), window, this.rate, fft);
    });
    const { gain, areAlike } = levelOf(seconds, this.nChannels, signal.input_level_db, together);
    this.gain = gain;
    const views = Array.from({ length: this.nChannels }, (_, i) => i);
    const isMidSide = signal.stereo === "mid-side";
    this.isMidSide = isMidSide && this.nChannels === 2 && areAlike;
    const isOneItem = together === 2 && this.nChannels === 2 && (areAlike || !isMidSide);
    // Beside a channel alone there is its side, which is silent, or the channel once more.
    this.items = isOneItem ? [views] : views.map((view) => (together === 2 ? [view, isMidSide ? -1 : view] : [view]));
  }

  // Writes the views of the song, without what is below the voice.
  async removeSlowWaves() {
    this.views = await this.samples("views");
    const highPass = this.model.signal.input_level_db === null ? null : new HighPass(this.rate);
    const margin = highPass?.margin ?? 0;
    for (const [start, stop] of this.chunks(this.nSamples, highPass?.length ?? this.rate)) {
      const [left, right] = this.mixture.read(start - margin, highPass ? start - margin + highPass.fft.n : stop, { hold: true });
      const views = this.isMidSide ? [left.map((one, i) => (one + right[i]) / 2), left.map((one, i) => (one - right[i]) / 2)] : [left, right];
      highPass?.process(...views);
      this.views.write(start, views.map((view) => view.subarray(margin, margin + stop - start)));
      this.tick((SHARES.input * stop) / this.nSamples);
    }
  }

  // Calls `take(frame, re, im)` with the spectrum of each frame, of both views as one complex signal.
  analyze([start, stop], take) {
    if (stop <= start) return;
    const { hop, length, window } = this;
    const origin = start * hop - length / 2;
    const [a, b] = this.views.read(origin, origin + (stop - start - 1) * hop + length);
    const [re, im] = [new Float64Array(length), new Float64Array(length)];
    for (let frame = start; frame < stop; frame++) {
      const offset = (frame - start) * hop;
      for (let i = 0; i < length; i++) {
        re[i] = a[offset + i] * window[i];
        im[i] = b[offset + i] * window[i];
      }
      this.fft.transform(re, im);
      take(frame, re, im);
    }
  }

  magnitudes(chunk) {
    const [n, { nBins, length, items }, together] = [chunk[1] - chunk[0], this, this.model.n_channels];
    const data = new Float32Array(items.length * n * nBins * together);
    const scale = this.gain / this.windowSum / 2;
    this.analyze([chunk[0], Math.min(chunk[1], this.nFrames)], (frame, re, im) => {
      for (let k = 0, m = 0; k < nBins; k++, m = length - k) {
        const one = Math.sqrt((re[k] + re[m]) ** 2 + (im[k] - im[m]) ** 2) * scale;
        const other = Math.sqrt((im[k] + im[m]) ** 2 + (re[m] - re[k]) ** 2) * scale;
        for (let item = 0; item < items.length; item++) {
          for (let i = 0; i < together; i++) {
            const view = items[item][i];
            data[((item * n + frame - chunk[0]) * nBins + k) * together + i] = view < 0 ? 0 : view ? other : one;
          }
        }
      }
    });
    return { data, dims: [items.length, n, nBins, together] };
  }

  async encode() {
    const chunks = this.chunks(this.nFrames + this.lookahead, this.chunkLength);
    for (const [i, chunk] of chunks.entries()) {
      const [features] = await this.model.run("encode", this.magnitudes(chunk));
      this.nSequences = features.dims[1];
      this.features ??= await this.array("features0", features.dims[1] * features.dims[2]);
      this.features.write(chunk[0], features.data);
      this.tick(SHARES.input + ((SHARES.encode - SHARES.input) * (i + 1)) / chunks.length);
    }
    await this.model.forget("encode");
  }

  // Rows of an array as a graph takes them.
  rows(array, [start, stop]) {
    return { data: array.read(start, stop), dims: [stop - start, this.nSequences, array.rowLength / this.nSequences] };
  }

  async throughLayers() {
    const { layers } = this.model;
    for (const [number, { directions, units }] of layers.entries()) {
      this.outputs = [];
      for (const way of ["forward", "backward"].slice(0, directions)) {
        const from = SHARES.encode + (SHARES.layers - SHARES.encode) * ((number + this.outputs.length / directions) / layers.length);
        await this.throughLayer(`${way}${number}`, units, from, (SHARES.layers - SHARES.encode) / layers.length / directions);
      }
      if (number + 1 < layers.length) await this.advance(number);
    }
  }

  async throughLayer(name, units, from, share) {
    const output = await this.array(name, this.nSequences * units);
    const chunks = this.chunks(this.nFrames + this.lookahead, this.chunkLength);
    const isBackward = name.startsWith("backward");
    if (isBackward) chunks.reverse();
    const turn = (rows, n) => (isBackward ? reversed(rows, n) : rows);
    let states = [0, 1].map(() => ({ data: new Float32Array(this.nSequences * units), dims: [1, this.nSequences, units] }));
    for (const [i, chunk] of chunks.entries()) {
      const { data, dims } = this.rows(this.features, chunk);
      const [rows, ...next] = await this.model.run(name, { data: turn(data, dims[0]), dims }, ...states);
      states = next;
      output.write(chunk[0], turn(rows.data, dims[0]));
      this.tick(from + (share * (i + 1)) / chunks.length);
    }
    await this.model.forget(name);
    this.outputs.push(output);
  }

  async combined(number, chunk) {
    const [features] = await this.model.run(`combine${number}`, ...[this.features, ...this.outputs].map((array) => this.rows(array, chunk)));
    return features;
  }

  // Turns a layer's outputs into the next one's features.
  async advance(number) {
    let following = null;
    for (const chunk of this.chunks(this.nFrames + this.lookahead, this.chunkLength)) {
      const features = await this.combined(number, chunk);
      following ??= await this.array(`features${number + 1}`, features.dims[1] * features.dims[2]);
      following.write(chunk[0], features.data);
    }
    await this.model.forget(`combine${number}`);
    for (const array of [this.features, ...this.outputs]) await array.remove();
    this.features = following;
  }

  async masks(frames) {
    const [masks] = this.isLayered
      ? await this.model.run("decode", await this.combined(this.model.layers.length - 1, frames.map((frame) => frame + this.lookahead)))
      : await this.model.run("network", this.magnitudes(frames));
    return masks;
  }

  // Writes the estimates, and returns the largest sample of all stems.
  async applyMasks() {
    const { hop, length, window, fft, model, beside } = this;
    this.estimates = await Promise.all(this.estimated.map((name, i) => this.samples(`estimate${i}`)));
    const [re, im] = [new Float64Array(length), new Float64Array(length)];
    const before = this.isLayered ? SHARES.layers : SHARES.input;
    let loudest = 0;
    for (const { kept, seen } of this.parts) {
      const masks = await this.masks(seen);
      const maskOf = [0, 1].map((view) => this.maskOf(masks, view));
      const [start, stop] = [Math.max(kept[0] - beside, 0), Math.min(kept[1] + beside, this.nFrames)];
      const size = (stop - start - 1) * hop + length;
      const sums = this.estimated.map(() => [new Float64Array(size), new Float64Array(size)]);
      const weight = new Float64Array(size);
      this.analyze([start, stop], (frame, mixedRe, mixedIm) => {
        const at = (frame - start) * hop;
        this.estimated.forEach((name, number) => {
          const [one, other] = maskOf.map((reader) => reader(frame - seen[0], model.sources.indexOf(name)));
          for (let k = 0, m = 0; k < this.nBins; k++, m = length - k) {
            const [a, b] = [one(k) / 2, other(k) / 2];
            const [aRe, aIm] = [a * (mixedRe[k] + mixedRe[m]), a * (mixedIm[k] - mixedIm[m])];
            const [bRe, bIm] = [b * (mixedIm[k] + mixedIm[m]), b * (mixedRe[m] - mixedRe[k])];
            re[m] = aRe + bIm;
            im[m] = bRe - aIm;
            re[k] = aRe - bIm;
            im[k] = aIm + bRe;
          }
          fft.transform(im, re);
          const [left, right] = sums[number];
          for (let i = 0; i < length; i++) {
            left[at + i] += (re[i] * window[i]) / length;
            right[at + i] += (im[i] * window[i]) / length;
          }
        });
        for (let i = 0; i < length; i++) weight[at + i] += window[i] * window[i];
      });
      loudest = Math.max(loudest, this.writeEstimates(kept, start * hop - length / 2, sums, weight));
      this.tick(before + ((SHARES.masks - before) * kept[1]) / this.nFrames);
    }
    for (const array of [this.views, this.features, ...this.outputs]) await array?.remove();
    return loudest;
  }

  // Reads a view's mask: (frame, source) => (bin) => from 0 to 1.
  maskOf({ data, dims: [, n, nBins, together, nSources] }, view) {
    const item = this.items.findIndex((views) => views.includes(view));
    if (item < 0) return () => () => 0;
    const [first, step] = [this.items[item].indexOf(view) * nSources, together * nSources];
    return (frame, source) => {
      const row = (item * n + frame) * nBins * step + first + source;
      return (k) => data[row + k * step];
    };
  }

  // Writes the samples of frames, of sums that begin at `origin`; returns the largest of all stems.
  writeEstimates([start, stop], origin, sums, weight) {
    const [first, last] = [start * this.hop, Math.min(stop * this.hop, this.nSamples)];
    if (last <= first) return 0;
    const estimates = sums.map((views) => {
      const [one, other] = views.map((sum) => sum.slice(first - origin, last - origin).map((value, i) => value / Math.max(weight[first - origin + i], 1e-10)));
      return this.isMidSide ? [one.map((mid, i) => mid + other[i]), one.map((mid, i) => mid - other[i])] : [one, other];
    });
    estimates.forEach((channels, i) => this.estimates[i].write(first, channels));
    const mixture = this.mixture.read(first, last);
    return Math.max(...this.plan.flatMap((stem) => this.stemOf(stem, mixture, estimates)).map(largest));
  }

  // The channels of a stem.
  stemOf({ sources, is_residual: isResidual }, mixture, estimates) {
    return mixture.map((mixed, channel) => {
      const parts = sources.map((source) => estimates[this.estimated.indexOf(source)][channel]);
      return mixed.map((sample, i) => {
        let sum = 0;
        for (const part of parts) sum += part[i];
        return isResidual ? sample - sum : sum;
      });
    });
  }

  // Writes the stems as 16-bit WAV files and their spectrograms. They add up to the song exactly, as rounded.
  async write(loudest) {
    const { nSamples, nChannels, rate } = this;
    const scale = loudest > 1 - 1 / FULL_SCALE ? (FULL_SCALE - 1 - this.estimated.length) / FULL_SCALE / loudest : 1;
    const stems = await Promise.all(this.plan.map(async (stem) => {
      const file = await openFile(this.folder, `${stem.name}.wav`);
      file.write(wavHeader(nSamples, nChannels, rate));
      return { ...stem, file };
    }));
    const peaks = [];
    for (const [start, stop] of this.chunks(nSamples, Math.ceil(nSamples / PEAKS))) {
      const [mixture, ...estimates] = [this.mixture, ...this.estimates].map((samples) => samples.read(start, stop).map((channel) => channel.map((sample) => Math.round(sample * scale * FULL_SCALE))));
      for (const stem of stems) {
        const channels = this.stemOf(stem, mixture, estimates);
        const samples = new Int16Array((stop - start) * nChannels);
        for (let i = 0; i < samples.length; i++) samples[i] = channels[i % nChannels][Math.floor(i / nChannels)];
        stem.file.write(samples, WAV_HEADER + 2 * start * nChannels);
      }
      peaks.push(Math.max(...mixture.map(largest)));
    }
    for (const array of [this.mixture, ...this.estimates]) await array.remove();
    const axis = await drawSpectrograms(this.folder, stems, this);
    for (const { file } of stems) file.close();
    const most = Math.max(1, ...peaks);
    const notes = scale === 1 ? [] : [`all stems are scaled by ${scale.toFixed(6)}, so that 16 bits do not clip`];
    const track = { folder: this.facts.id, stems: stems.map(({ name }) => name), sample_rate: rate, n_samples: nSamples, n_channels: nChannels, start_s: 0, ...axis };
    const song = { ...this.facts, state: "done", notes, duration_s: nSamples / rate, peaks: peaks.map((peak) => Math.floor((100 * peak) / most)), track };
    await saveFile(this.folder, "song.json", new TextEncoder().encode(JSON.stringify(song)));
  }
}

let song = null;
const tasks = {
  async open({ address, folder, ...parameters }) {
    const root = await (await navigator.storage.getDirectory()).getDirectoryHandle(folder);
    const model = new Model(address, await (await fetch(`${address}/model.json`)).json());
    song = new Song(await root.getDirectoryHandle(parameters.facts.id, { create: true }), model, parameters);
    song.mixture = await song.samples("mixture");
  },
  store({ start, channels }) { song.mixture.write(start, channels); },
  separate: () => song.separate((share) => postMessage({ share })),
};

self.onmessage = async ({ data: { task, ...parameters } }) => {
  try {
    postMessage({ result: await tasks[task](parameters) });
  } catch (error) {
    postMessage({ error: error.name === "QuotaExceededError" ? FULL : error.message });
  }
};
