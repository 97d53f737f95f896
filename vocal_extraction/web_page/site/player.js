// A song's player: all stems under one clock, with a fader between the voice and the rest.
//
// Short chunks of all stems are fetched as they are needed and scheduled for the same sample, so the stems cannot drift
// apart, and what is heard of all of them is the song. Nothing grows with the length of the song.

import { Stretcher } from "./stretcher.js";

const CHUNK_S = 2;
const AHEAD_S = 6; // a tab in the background is woken once a second at most
const LEAD_S = 0.08;
const SMOOTHING_S = 0.015; // of gains, so that they do not click

export function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// An element with properties; those that start with "aria-" or "data-" or are no properties of it become attributes.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export class Player {
  // `onseekoutside(seconds)` is called for a place that the track does not hold (yet), `onpart([from, to])` for a part to
  // separate anew.
  constructor(song, onseekoutside, onpart) {
    Object.assign(this, { song, onseekoutside, onpart, track: song.track });
    this.position = this.track.start_s; // seconds of the song, where it stood when it last stopped
    this.scheduled = []; // what sounds or will: {when, start, n, speed}, `when` on the context's clock, samples of the song
    this.run = 0; // counts starts and stops, so that what belongs to an earlier one gives up
    this.playing = false;
    this.speed = 1;
    this.loop = null; // [from, to] in seconds
    this.dragged = null; // the part that is being selected, likewise
    this.wanted = null; // a place that was asked for and is still to come
    this.build();
  }

  // The next state of the same song: where its track holds what is playing, as when a preview is followed by the whole,
  // it plays on.
  setSong(song) {
    const isNew = song.track.folder !== this.track.folder;
    this.song = song;
    if (!isNew) return;
    this.track = song.track;
    const comes = this.wanted !== null && this.holds(this.wanted);
    if (comes || !this.holds(this.now())) this.restart(() => { this.position = comes ? this.wanted : this.track.start_s; });
    if (comes) this.wanted = null;
    for (const image of this.element.querySelectorAll(".picture img")) image.src = this.track.spectrogram(image.dataset.stem);
    this.placeAxes();
    this.showDownloads();
    this.show();
  }

  get durationS() { return this.song.duration_s ?? this.track.durationS; }

  get endS() { return this.track.start_s + this.track.durationS; }

  holds(seconds) { return seconds >= this.track.start_s && seconds < this.endS; }

  now() {
    const time = this.context?.currentTime ?? 0;
    const part = this.scheduled.findLast(({ when }) => when <= time);
    if (!this.playing || !part) return this.position;
    return part.start / this.track.sample_rate + Math.min((time - part.when) * part.speed, part.n / this.track.sample_rate);
  }

  async play() {
    this.openContext();
    if (this.position >= this.endS - 0.01) this.position = this.track.start_s;
    if (this.loop && (this.position < this.loop[0] || this.position >= this.loop[1])) this.position = this.loop[0];
    this.playing = true;
    const run = ++this.run;
    document.dispatchEvent(new CustomEvent("plays", { detail: this }));
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
    this.run += 1;
    this.scheduled = [];
    for (const source of this.sources ?? []) source.stop();
    this.sources?.clear();
    this.show();
  }

  seek(seconds) {
    const place = Math.min(Math.max(seconds, 0), this.durationS);
    this.wanted = this.song.isWhole || this.holds(place) ? null : place;
    if (this.wanted !== null) this.onseekoutside(place);
    this.restart(() => { this.position = Math.min(Math.max(place, this.track.start_s), this.endS); });
  }

  // Change something that what is scheduled already does not know of.
  restart(change) {
    const wasPlaying = this.playing;
    this.stop();
    change();
    if (wasPlaying) this.play();
    else this.show();
  }

  // Each stem: sources -> gain -> level meter -> loudspeakers.
  openContext() {
    if (this.context) return;
    this.context = new AudioContext({ sampleRate: this.track.sample_rate });
    this.sources = new Set();
    for (const lane of this.lanes) {
      lane.meter = this.context.createAnalyser();
      lane.gain = this.context.createGain();
      lane.gain.connect(lane.meter).connect(this.context.destination);
    }
    this.applyGains();
  }

  // Fetch and schedule chunk after chunk until the song ends or something else begins. Positions are samples of the song.
  async feed(run) {
    const rate = this.track.sample_rate;
    let [sample, due, stretcher] = [Math.round(this.position * rate), 0, null];
    for (;;) {
      const first = Math.round(this.track.start_s * rate); // the track may have become another one
      const [loopStart, loopEnd] = this.loop ? this.loop.map((seconds) => Math.round(seconds * rate)) : [0, Infinity];
      const end = Math.min(first + this.track.n_samples, loopEnd);
      if (sample >= end && this.loop && loopStart < end) [sample, stretcher] = [loopStart, null];
      if (sample < end && due < this.context.currentTime + AHEAD_S) {
        const wanted = Math.min(Math.round(CHUNK_S * rate), end - sample);
        if (this.speed !== 1) stretcher ??= new Stretcher(this.speed, rate);
        const n = stretcher ? stretcher.round(wanted) : wanted;
        const margin = stretcher?.margin ?? 0;
        let stems = await this.track.read(Math.round(sample) - first - margin, Math.ceil(n) + 2 * margin + (margin ? 1 : 0));
        if (run !== this.run) return;
        if (stretcher) stems = stretcher.process(stems, sample, n);
        // The start, or a chunk that came too late, is moved to a whole sample a moment from now.
        if (due < this.context.currentTime) due = Math.ceil((this.context.currentTime + LEAD_S) * rate) / rate;
        this.schedule(stems, due);
        this.scheduled.push({ when: due, start: sample, n, speed: this.speed });
        due += stems[0][0].length / rate;
        sample += n;
      } else {
        if (sample >= end && due <= this.context.currentTime) break;
        await new Promise((resolve) => setTimeout(resolve, 100));
        if (run !== this.run) return;
      }
    }
    this.stop();
    this.position = this.track.start_s;
    this.show();
  }

  schedule(stems, when) {
    stems.forEach((channels, index) => {
      const buffer = this.context.createBuffer(2, channels[0].length, this.track.sample_rate);
      channels.forEach((samples, channel) => buffer.copyToChannel(samples, channel));
      const source = this.context.createBufferSource();
      source.buffer = buffer;
      source.connect(this.lanes[index].gain);
      source.onended = () => this.sources.delete(source);
      this.sources.add(source);
      source.start(when);
    });
  }

  // Volume, mute and solo of each stem, and the fader: -100 is the voice only, 100 the rest only, 0 both in full.
  applyGains() {
    const fader = Number(this.fader?.value ?? 0);
    const [voice, rest] = [Math.min(1, 1 - fader / 100), Math.min(1, 1 + fader / 100)];
    const anySolo = this.lanes.some(({ solo }) => pressed(solo));
    for (const lane of this.lanes) {
      const isOn = pressed(lane.solo) || (!anySolo && !pressed(lane.mute));
      const side = this.fader ? (lane.stem === "vocals" ? voice : rest) : 1;
      lane.level = isOn ? side * (Number(lane.volume.value) / 100) ** 2 : 0;
      lane.gain?.gain.setTargetAtTime(lane.level, this.context.currentTime, SMOOTHING_S);
      lane.section.classList.toggle("silent", lane.level === 0);
    }
    const percent = (level) => `${Math.round(100 * level)} %`;
    this.fader?.setAttribute("aria-valuetext", `vocals ${percent(voice)}, everything else ${percent(rest)}`);
  }

  build() {
    const { song } = this;
    this.playButton = make("button", { className: "play", onclick: () => (this.playing ? this.stop() : this.play()) });
    this.seekSlider = make("input", { type: "range", className: "seek", min: 0, max: this.durationS, step: "any", value: 0, "aria-label": "Position in the song" });
    this.seekSlider.oninput = () => this.seek(Number(this.seekSlider.value));
    this.time = make("span", { className: "time" });
    this.complaint = make("p", { className: "complaint", role: "alert" });
    this.speedSelect = make("select", { title: "The pitch stays" }, ...[0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5].map((speed) => make("option", { value: speed, selected: speed === 1 }, `${speed} ×`)));
    this.speedSelect.onchange = () => this.restart(() => { this.speed = Number(this.speedSelect.value); });
    this.loopButton = make("button", { className: "small", "aria-label": "Remove the loop", onclick: () => this.setLoop(null) });
    this.partButton = make("button", { className: "small", onclick: () => this.onpart(this.loop) }, "Separate this part alone");
    const speed = make("label", {}, "Speed", this.speedSelect);
    this.overview = make("canvas", { width: 1000, height: 60, role: "img", "aria-label": "Waveform of the song" });
    const overview = this.pointable(make("div", { className: "picture overview", title: "Click to go there, drag to loop a part. [ and ] set where the loop begins and ends." }, this.overview));
    this.lanes = this.track.stems.map((stem) => this.buildLane(stem));
    const gains = () => Object.fromEntries(this.lanes.map((lane) => [lane.stem, lane.level.toFixed(3)]));
    const saveMix = async () => make("a", { href: await this.song.mix(gains()), download: `${song.name} - mix.wav` }).click();
    this.mixButton = make("button", { className: "small", onclick: saveMix }, "Download the mix as it sounds now");
    this.downloads = make("p", { className: "downloads" }, this.mixButton);
    this.element = make("div", { className: "player", role: "group", "aria-label": `Player for ${song.name}` },
      make("div", { className: "transport" }, this.playButton, this.seekSlider, this.time, speed, this.loopButton, this.partButton),
      this.complaint, overview, this.buildFader(), ...this.lanes.map(({ section }) => section), this.downloads);
    this.element.onkeydown = (event) => this.onKey(event);
    this.element.player = this;
    this.drawWaveform();
    this.placeAxes();
    this.showDownloads();
    this.setLoop(null);
  }

  buildFader() {
    if (!this.track.stems.includes("vocals") || this.track.stems.length < 2) return "";
    this.fader = make("input", { type: "range", min: -100, max: 100, step: 5, value: 0, "aria-label": "Karaoke fader, from vocals to everything else", oninput: () => this.applyGains() });
    return make("div", { className: "fader" }, make("span", {}, "Vocals only"), make("div", {}, this.fader, make("i", { className: "middle", "aria-hidden": "true" })), make("span", {}, "Karaoke"));
  }

  buildLane(stem) {
    const title = stem[0].toUpperCase() + stem.slice(1).replace("_", " ");
    const toggle = (text) => {
      const button = make("button", { className: "small", "aria-pressed": "false", "aria-label": `${text} ${stem}` }, text);
      button.onclick = () => {
        button.setAttribute("aria-pressed", String(!pressed(button)));
        this.applyGains();
      };
      return button;
    };
    const lane = { stem, mute: toggle("Mute"), solo: toggle("Solo") };
    lane.volume = make("input", { type: "range", min: 0, max: 100, value: 100, "aria-label": `Volume of ${stem}`, oninput: () => this.applyGains() });
    lane.bar = make("div", { className: "level", "aria-hidden": "true" }, make("i"));
    const image = make("img", { src: this.track.spectrogram(stem), alt: `Spectrogram of ${stem}`, width: 480, height: 200, draggable: false, "data-stem": stem });
    lane.head = make("div", { className: "head" }, make("h3", {}, title), lane.solo, lane.mute, make("label", {}, "Volume", lane.volume), lane.bar);
    lane.section = make("section", { className: "lane", "aria-label": title }, lane.head,
      this.pointable(make("div", { className: "picture" }, image, make("div", { className: "axis", "aria-hidden": "true" }))));
    return lane;
  }

  // What a picture shows, as start and length in seconds: the waveform the song, a spectrogram the track.
  span(picture) {
    return picture.classList.contains("overview") ? [0, this.durationS] : [this.track.start_s, this.track.durationS];
  }

  // A click seeks, a drag selects what is looped.
  pointable(picture) {
    let grabbed = null;
    const secondsAt = (event) => {
      const [box, [start, length]] = [picture.getBoundingClientRect(), this.span(picture)];
      return start + Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * length;
    };
    picture.onpointerdown = (event) => {
      grabbed = { x: event.clientX, at: secondsAt(event) };
      picture.setPointerCapture(event.pointerId);
    };
    picture.onpointermove = (event) => {
      if (!grabbed || (!this.dragged && Math.abs(event.clientX - grabbed.x) < 6)) return;
      this.dragged = [grabbed.at, secondsAt(event)].sort((one, other) => one - other);
      this.placeMarks();
    };
    picture.onpointerup = () => {
      if (this.dragged) this.setLoop(this.dragged);
      else if (grabbed) this.seek(grabbed.at);
    };
    picture.onlostpointercapture = () => {
      grabbed = this.dragged = null;
      this.placeMarks();
    };
    picture.append(make("i", { className: "selection" }), make("i", { className: "cursor" }));
    return picture;
  }

  setLoop(ends) {
    this.restart(() => { this.loop = ends && ends[1] - ends[0] > 0.1 ? ends : null; });
    this.loopButton.hidden = !this.loop;
    this.partButton.hidden = !this.loop || !this.onpart;
    this.loopButton.textContent = this.loop ? `Loop ${clock(this.loop[0])}–${clock(this.loop[1])} ×` : "";
    this.placeMarks();
  }

  onKey(event) {
    if (event.key === "[") this.setLoop([this.now(), this.loop?.[1] ?? this.durationS]);
    if (event.key === "]") this.setLoop([this.loop?.[0] ?? 0, this.now()]);
    const control = event.target.closest("button, a, input, select");
    if (event.key !== " " || (control && control.type !== "range")) return;
    event.preventDefault();
    this.playButton.click();
  }

  drawWaveform() {
    const [context, { width, height }, { peaks }] = [this.overview.getContext("2d"), this.overview, this.song];
    context.fillStyle = getComputedStyle(document.body).getPropertyValue("--accompaniment");
    peaks.forEach((peak, i) => {
      const tall = Math.max(1, (peak / 100) * height);
      context.fillRect((i * width) / peaks.length, (height - tall) / 2, width / peaks.length, tall);
    });
  }

  // Frequencies at the left of each spectrogram, times at its foot.
  placeAxes() {
    const { lowest_hz: lowest, highest_hz: highest, start_s: startS, durationS } = this.track;
    const step = [1, 2, 5, 10, 15, 30, 60, 120, 300].find((seconds) => durationS / seconds <= 8) ?? 600;
    const label = (className, side, share, text) => {
      const element = make("span", { className }, text);
      element.style[side] = `${100 * share}%`;
      return element;
    };
    for (const axis of this.element.querySelectorAll(".axis")) {
      axis.replaceChildren();
      for (const hz of [300, 1000, 5000].filter((hz) => hz < highest)) {
        axis.append(label("hz", "bottom", Math.log(hz / lowest) / Math.log(highest / lowest), hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`));
      }
      for (let at = (Math.floor(startS / step) + 1) * step; at < startS + durationS * 0.97; at += step) {
        axis.append(label("s", "left", (at - startS) / durationS, clock(at)));
      }
    }
  }

  // Beside each stem its own file; below, what holds all of them, and the mix.
  showDownloads() {
    const { name, downloads, archive, isWhole } = this.song;
    for (const { stem, file, bytes, url } of downloads) {
      const ending = file.match(/\.(stem\.)?\w+$/)[0];
      const kind = ` (${ending.slice(1).toUpperCase()}, ${(bytes / 1e6).toFixed(1)} MB)`;
      const link = make("a", { className: "download", href: url, download: `${name} - ${stem}${ending}` }, "Download", make("span", { className: "spoken" }, ` ${stem}`), kind);
      const lane = this.lanes.find((one) => one.stem === stem);
      if (lane) lane.head.append(link);
      else this.mixButton.before(link);
    }
    if (isWhole && archive) this.mixButton.before(make("a", { className: "small", href: archive, download: `${name}.zip` }, "Download all as ZIP"));
    this.downloads.hidden = !isWhole;
    this.applyGains();
  }

  show() {
    this.element.dataset.state = this.playing ? "playing" : "paused";
    this.playButton.setAttribute("aria-label", this.playing ? "Pause" : "Play");
    this.seekSlider.max = this.durationS;
    this.placeMarks();
    if (this.playing && !this.drawing) this.draw();
  }

  placeMarks() {
    const at = this.now();
    const text = `${clock(at)} / ${clock(this.durationS)}`;
    if (this.time.textContent !== text) {
      this.time.textContent = text;
      this.seekSlider.setAttribute("aria-valuetext", `${clock(at)} of ${clock(this.durationS)}`);
    }
    this.seekSlider.value = at;
    const selected = this.dragged ?? this.loop;
    const part = selected ?? (this.song.isWhole ? [0, 0] : [this.track.start_s, this.endS]);
    for (const picture of this.element.querySelectorAll(".picture")) {
      const [start, length] = this.span(picture);
      const [cursor, from, to] = [at, ...part].map((seconds) => 100 * Math.min(Math.max((seconds - start) / length, 0), 1));
      picture.querySelector(".cursor").style.left = `${cursor}%`;
      const isShown = selected || picture.classList.contains("overview");
      Object.assign(picture.querySelector(".selection").style, { left: `${from}%`, width: isShown ? `${to - from}%` : 0 });
    }
  }

  // While it plays: cursors, time and level meters, once a frame.
  draw() {
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      if (!this.element.isConnected) this.stop();
      this.placeMarks();
      for (const lane of this.lanes) lane.bar.style.setProperty("--level", this.playing ? level(lane.meter) : 0);
      if (this.playing) this.draw();
    });
  }
}

const pressed = (button) => button.getAttribute("aria-pressed") === "true";

// From 0 (silence) to 1 (full scale), on a scale of decibels.
function level(meter) {
  const samples = new Float32Array(meter.fftSize);
  meter.getFloatTimeDomainData(samples);
  const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
  return power > 0 ? Math.max(0, 1 + Math.log10(power) / 6).toFixed(3) : 0;
}
