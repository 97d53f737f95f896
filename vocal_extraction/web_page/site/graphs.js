// What a song's way through a network needs: the network's graphs, and arrays as long as the song.
import * as ort from "./onnxruntime/ort.js";
import { openFile } from "./storage.js";

ort.env.wasm.wasmPaths = { wasm: new URL("./onnxruntime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

// Rows of 32-bit floats in a file.
export class DiskArray {
  static async create(folder, name, rowLength) {
    return Object.assign(new DiskArray(), { folder, name, rowLength, file: await openFile(folder, name) });
  }

  read(start, stop) {
    const rows = new Float32Array((stop - start) * this.rowLength);
    this.file.read(rows, 4 * start * this.rowLength);
    return rows;
  }

  write(start, rows) { this.file.write(rows, 4 * start * this.rowLength); }

  async remove() {
    this.file.close();
    await this.folder.removeEntry(this.name);
  }
}

// Up to two channels of a song, each in a file; a second one that is not there is silent.
export class Channels {
  static async create(folder, name, nChannels, nSamples) {
    const names = [`${name}-left`, `${name}-right`].slice(0, nChannels);
    return Object.assign(new Channels(), { nSamples, arrays: await Promise.all(names.map((one) => DiskArray.create(folder, one, 1))) });
  }

  // What lies outside of the song is 0, or goes on as it ends there.
  read(start, stop, { hold = false } = {}) {
    const [first, last] = [Math.min(Math.max(start, 0), this.nSamples), Math.max(Math.min(stop, this.nSamples), 0)];
    return [0, 1].map((channel) => {
      const samples = new Float64Array(stop - start);
      if (!this.arrays[channel] || first >= last) return samples;
      samples.set(this.arrays[channel].read(first, last), first - start);
      return hold ? samples.fill(samples[first - start], 0, first - start).fill(samples[last - 1 - start], last - start) : samples;
    });
  }

  write(start, channels) { this.arrays.forEach((array, i) => array.write(start, Float32Array.from(channels[i]))); }

  async remove() { for (const array of this.arrays) await array.remove(); }
}

// A model's graphs, each loaded when it is first run.
export class Model {
  constructor(address, facts) {
    Object.assign(this, facts, { address, sessions: new Map() });
  }

  // Runs a graph on arrays with their shapes; returns its outputs, which are tensors.
  async run(name, ...inputs) {
    const graph = this.graphs[name];
    if (!this.sessions.has(name)) this.sessions.set(name, await ort.InferenceSession.create(`${this.address}/${graph.file}`));
    const tensors = inputs.map(({ data, dims }) => new ort.Tensor("float32", data, dims));
    const outputs = await this.sessions.get(name).run(Object.fromEntries(graph.inputs.map((input, i) => [input, tensors[i]])));
    return graph.outputs.map((output) => outputs[output]);
  }

  async forget(name) {
    await this.sessions.get(name)?.release();
    this.sessions.delete(name);
  }
}
