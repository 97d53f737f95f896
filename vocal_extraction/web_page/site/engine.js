// What the page needs of whatever separates its songs: the local server (server_engine.js) or the browser itself
// (browser_engine.js); the page's <html> says which. An engine has `privacy`, what the page may promise, `models()` and
// `reports()`, `songs()`, those that outlived the page, `separate(file, options, onprogress)`, which calls back with the
// song at each of its states, `follow(song, onprogress)`, which goes on with that, `preview(song, seconds)` and `remove(song)`.

export const isOver = ({ state }) => ["done", "failed", "cancelled"].includes(state);

// What the player plays: stems of equal length, 16-bit stereo. `bytes(stem, first, last)` reads some of one.
export class Track {
  constructor(facts) {
    Object.assign(this, facts, { durationS: facts.n_samples / facts.sample_rate });
    this.stems = facts.stems.toSorted((one, other) => (other === "vocals") - (one === "vocals")); // the voice on top
  }

  // Resolves to left and right of each stem; what lies outside of the track is silent.
  read(start, n) {
    const [first, last] = [Math.max(0, start), Math.min(start + n, this.n_samples)];
    return Promise.all(this.stems.map(async (stem) => {
      const channels = [new Float32Array(n), new Float32Array(n)];
      if (first >= last) return channels;
      const samples = new Int16Array(await this.bytes(stem, 4 * first, 4 * last));
      samples.forEach((sample, i) => { channels[i % 2][first - start + (i >> 1)] = sample / 32768; });
      return channels;
    }));
  }
}

export async function loadEngine() {
  const { default: Chosen } = await import(document.documentElement.dataset.engine === "browser" ? "./browser_engine.js" : "./server_engine.js");
  return new Chosen();
}
