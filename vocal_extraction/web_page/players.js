// The players of a result: mixture, vocals and accompaniment under one clock, and the karaoke fader between them.
//
// Vocals and accompaniment lie interleaved in one stream of 16-bit samples (left and right of one, left and right of the
// other), of which short pieces are fetched as they are needed. Both are scheduled for the same sample, so they cannot
// drift apart, and what is heard with the fader in its middle is their sum, the mixture. Nothing grows with the length
// of the song.

const PIECE_S = 2;
const AHEAD_S = 6; // a tab in the background is woken once a second at most
const LEAD_S = 0.08;
const BYTES_PER_FRAME = 8;
const SMOOTHING_S = 0.015; // of the fader, so that it does not click

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

class SongPlayers extends HTMLElement {
  connectedCallback() {
    this.rate = Number(this.dataset.rate);
    this.nFrames = Number(this.dataset.frames);
    this.position = 0; // seconds, where it stood when it last stopped
    this.origin = null; // when the song's first sample sounds or would have sounded, on the context's clock
    this.run = 0; // counts starts and stops, so that what belongs to an earlier one gives up
    this.playing = false;
    this.playButton = this.querySelector(".play");
    this.seekSlider = this.querySelector(".seek");
    this.fader = this.querySelector(".fader input");
    this.time = this.querySelector(".time");
    this.complaint = this.querySelector(".complaint");
    this.rows = [...this.querySelectorAll("[data-fader]")];
    this.levels = [...this.querySelectorAll(".level")]; // of vocals and accompaniment
    this.playButton.addEventListener("click", () => this.toggle());
    this.seekSlider.addEventListener("input", () => this.seek(Number(this.seekSlider.value)));
    this.fader.addEventListener("input", () => this.applyFader());
    this.addEventListener("keydown", (event) => this.onKey(event));
    for (const row of this.rows) {
      row.querySelector("button").addEventListener("click", () => this.hear(row));
      row.querySelector(".picture").addEventListener("click", (event) => this.seekTo(event));
    }
    this.applyFader();
    this.show();
  }

  disconnectedCallback() {
    this.stop();
    this.context?.close();
    this.context = undefined;
  }

  get durationS() {
    return this.nFrames / this.rate;
  }

  now() {
    if (!this.playing || this.origin === null) return this.position;
    const heard = this.context.currentTime - this.origin;
    return Math.min(Math.max(heard, this.position), this.durationS);
  }

  toggle() {
    if (this.playing) this.stop();
    else this.play();
  }

  // A row's button plays that row; pressed while the row is heard, it pauses.
  hear(row) {
    const isHeard = this.fader.value === row.dataset.fader;
    this.fader.value = row.dataset.fader;
    this.applyFader();
    if (!this.playing) this.play();
    else if (isHeard) this.stop();
  }

  async play() {
    this.openContext();
    if (this.position >= this.durationS) this.position = 0;
    this.playing = true;
    this.origin = null;
    const run = ++this.run;
    this.show();
    try {
      await this.context.resume();
      await this.feed(run);
      this.complaint.textContent = "";
    } catch (error) {
      if (run !== this.run) return;
      this.stop();
      this.complaint.textContent = `This cannot be played: ${error.message}`;
    }
  }

  stop() {
    this.position = this.now();
    this.playing = false;
    this.origin = null;
    this.run += 1;
    for (const source of this.sources ?? []) source.stop();
    this.sources?.clear();
    if (this.isConnected) this.show();
  }

  seek(seconds) {
    const wasPlaying = this.playing;
    this.stop();
    this.position = Math.min(Math.max(seconds, 0), this.durationS);
    if (wasPlaying) this.play();
    else this.show();
  }

  seekTo(event) {
    const box = event.currentTarget.getBoundingClientRect();
    this.seek(((event.clientX - box.left) / box.width) * this.durationS);
  }

  onKey(event) {
    const onControl = event.target.closest("button, a, input");
    if (event.key === " " && (!onControl || onControl.type === "range")) {
      event.preventDefault();
      this.toggle();
    }
  }

  // Vocals and accompaniment: sources -> gain of the fader -> level meter -> loudspeakers.
  openContext() {
    if (this.context) return;
    this.context = new AudioContext({ sampleRate: this.rate });
    this.sources = new Set();
    this.meters = [0, 1].map(() => this.context.createAnalyser());
    this.gains = this.meters.map((meter) => {
      const gain = this.context.createGain();
      gain.connect(meter).connect(this.context.destination);
      return gain;
    });
    this.applyFader();
  }

  // Fetch and schedule piece after piece until the song ends or something else begins.
  async feed(run) {
    let frame = Math.round(this.position * this.rate);
    while (frame < this.nFrames) {
      const n = Math.min(Math.round(PIECE_S * this.rate), this.nFrames - frame);
      const piece = await this.fetchPiece(frame, n);
      if (run !== this.run) return;
      const due = this.origin === null ? 0 : this.origin + frame / this.rate;
      if (due < this.context.currentTime) {
        // The start, or a piece that came too late: everything moves to a whole sample a moment from now.
        const start = Math.ceil((this.context.currentTime + LEAD_S) * this.rate) / this.rate;
        this.position = frame / this.rate;
        this.origin = start - this.position;
      }
      this.schedule(piece, this.origin + frame / this.rate);
      frame += n;
      while (this.origin + frame / this.rate > this.context.currentTime + AHEAD_S) {
        await pause(200);
        if (run !== this.run) return;
      }
    }
    while (this.now() < this.durationS) {
      await pause(100);
      if (run !== this.run) return;
    }
    this.stop();
    this.position = 0;
    this.show();
  }

  async fetchPiece(frame, n) {
    const first = frame * BYTES_PER_FRAME;
    const range = `bytes=${first}-${first + n * BYTES_PER_FRAME - 1}`;
    const answer = await fetch(this.dataset.listen, { headers: { Range: range } });
    if (answer.status === 404) throw new Error("its files have been removed. Extract the song once more.");
    if (answer.status !== 206) throw new Error(`the server answered ${answer.status}.`);
    const samples = new Int16Array(await answer.arrayBuffer());
    return [0, 2].map((offset) => {
      const buffer = this.context.createBuffer(2, n, this.rate);
      for (const channel of [0, 1]) {
        const target = buffer.getChannelData(channel);
        for (let i = 0; i < n; i++) target[i] = samples[4 * i + offset + channel] / 32768;
      }
      return buffer;
    });
  }

  schedule(piece, when) {
    piece.forEach((buffer, index) => {
      const source = this.context.createBufferSource();
      source.buffer = buffer;
      source.connect(this.gains[index]);
      source.onended = () => this.sources.delete(source);
      this.sources.add(source);
      source.start(when);
    });
  }

  // -100 is vocals only, 100 accompaniment only, 0 both in full.
  applyFader() {
    const value = Number(this.fader.value);
    const levels = [Math.min(1, 1 - value / 100), Math.min(1, 1 + value / 100)];
    this.gains?.forEach((gain, index) => {
      gain.gain.setTargetAtTime(levels[index], this.context.currentTime, SMOOTHING_S);
    });
    const [vocals, accompaniment] = levels.map((level) => `${Math.round(100 * level)} %`);
    this.fader.setAttribute("aria-valuetext", `vocals ${vocals}, accompaniment ${accompaniment}`);
    this.show();
  }

  show() {
    const at = this.now();
    this.dataset.state = this.playing ? "playing" : "paused";
    this.playButton.setAttribute("aria-label", this.playing ? "Pause" : "Play");
    for (const row of this.rows) {
      const isHeard = this.fader.value === row.dataset.fader;
      const button = row.querySelector("button");
      row.classList.toggle("heard", isHeard);
      button.classList.toggle("sounding", isHeard && this.playing);
      button.setAttribute("aria-label", `${isHeard && this.playing ? "Pause" : "Play"} ${row.dataset.name}`);
    }
    this.showTime(at);
    if (this.playing && !this.drawing) this.draw();
  }

  showTime(at) {
    const text = `${clock(at)} / ${clock(this.durationS)}`;
    if (this.time.textContent !== text) {
      this.time.textContent = text;
      this.seekSlider.setAttribute("aria-valuetext", `${clock(at)} of ${clock(this.durationS)}`);
    }
    this.seekSlider.value = at;
    this.style.setProperty("--position", `${(100 * at) / this.durationS}%`);
  }

  // While it plays: cursor, time and level meters, once a frame.
  draw() {
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      if (!this.isConnected) return;
      this.showTime(this.now());
      this.levels.forEach((bar, index) => {
        bar.style.setProperty("--level", this.playing ? this.level(this.meters[index]) : 0);
      });
      if (this.playing) this.draw();
    });
  }

  // From 0 (silence) to 1 (full scale), on a scale of decibels.
  level(meter) {
    this.samples ??= new Float32Array(meter.fftSize);
    meter.getFloatTimeDomainData(this.samples);
    const power = this.samples.reduce((sum, sample) => sum + sample * sample, 0) / this.samples.length;
    return power > 0 ? Math.max(0, 1 + Math.log10(power) / 6).toFixed(3) : 0;
  }
}

customElements.define("song-players", SongPlayers);
