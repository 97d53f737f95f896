// Changes speed and keeps pitch: WSOLA (Verhelst and Roelands, 1993). Overlapping frames are laid out at another distance
// than they were taken at, each from where it continues the one before it best; all stems from the same place.
export class Stretcher {
  constructor(speed, rate) {
    this.speed = speed;
    this.hop = Math.round(0.02 * rate);
    this.search = Math.round(0.01 * rate);
    this.margin = 2 * (this.hop + this.search);
    this.previous = null; // where the last frame was taken from, in samples of the song
  }

  // How many samples of the song make a whole number of frames, about `n`.
  round(n) {
    return Math.max(1, Math.floor(n / this.speed / this.hop)) * this.hop * this.speed;
  }

  // `stems` begin `margin` samples before `start` and end as much after `start + n`.
  process(stems, start, n) {
    const { hop, speed, margin } = this;
    const nFrames = Math.round(n / speed / hop);
    const base = Math.round(start) - margin;
    const sum = stems[0][0].map((_, i) => stems.reduce((total, [left, right]) => total + left[i] + right[i], 0));
    const output = stems.map((channels) => channels.map(() => new Float32Array(nFrames * hop)));
    for (let frame = 0; frame < nFrames; frame++) {
      const wanted = Math.round(start + frame * hop * speed) - base;
      const continued = this.previous === null ? wanted : this.previous + hop - base;
      const taken = this.bestMatch(sum, wanted, continued);
      stems.forEach((channels, stem) => channels.forEach((samples, channel) => {
        const target = output[stem][channel];
        for (let i = 0; i < hop; i++) {
          const rising = Math.sin((Math.PI * (i + 0.5)) / (2 * hop)) ** 2;
          target[frame * hop + i] = rising * samples[taken + i] + (1 - rising) * samples[continued + i];
        }
      }));
      this.previous = taken + base;
    }
    return output;
  }

  bestMatch(sum, wanted, continued) {
    let [best, highest] = [wanted, -Infinity];
    for (let place = wanted - this.search; place <= wanted + this.search; place += 2) {
      let [product, power] = [0, 1e-9];
      for (let i = 0; i < this.hop; i += 4) {
        product += sum[place + i] * sum[continued + i];
        power += sum[place + i] ** 2;
      }
      if (product / Math.sqrt(power) > highest) [best, highest] = [place, product / Math.sqrt(power)];
    }
    return best;
  }
}
