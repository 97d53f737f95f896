// The page: takes songs, shows each one's way through the separation, and shows reports.
import { isOver, loadEngine } from "./engine.js";
import { Player, clock, make } from "./player.js";

const engine = await loadEngine();
const byId = (id) => document.getElementById(id);
const form = byId("options");

const EXAMPLE_S = 240;

const secondsOf = (text) => text.split(":").reduce((total, part) => 60 * total + Number(part), 0);
const minutes = (seconds) => (seconds < 60 ? `${Math.ceil(seconds)} s` : `${clock(seconds)} min`);

// What the form asks for, as the engine takes it.
function chosenOptions() {
  const { stems, from_s: from, to_s: to, ...others } = Object.fromEntries(new FormData(form));
  const region = Object.entries({ from_s: from, to_s: to }).filter(([, text]) => text.trim()).map(([name, text]) => [name, secondsOf(text)]);
  return { ...others, ...Object.fromEntries(region), ...Object.fromEntries(new URLSearchParams(stems)) };
}

// A song of the list, from its upload to its player.
class SongCard {
  constructor({ isOpen = true } = {}) {
    this.title = make("h2");
    this.remove = make("button", { className: "small", onclick: () => this.discard() }, "Cancel");
    this.status = make("p", { className: "status" });
    this.bar = make("progress", { max: 1 });
    this.body = make("details", { open: isOpen, hidden: true }, make("summary", {}, "Player"));
    this.element = make("article", {}, make("div", { className: "head" }, this.title, this.remove), this.status, this.bar, this.body);
    byId("songs").prepend(this.element);
  }

  async start(file, options) {
    this.file = file;
    try {
      await engine.separate(file, options, (song) => this.show(song));
    } catch (error) {
      this.show({ name: file.name, state: "failed", error: error.message });
    }
  }

  show(song) {
    this.song = song;
    const action = isOver(song) ? "Remove" : "Cancel";
    this.element.dataset.state = song.state;
    this.element.setAttribute("aria-label", song.name);
    this.title.textContent = song.name;
    this.remove.textContent = action;
    this.remove.setAttribute("aria-label", `${action} ${song.name}`);
    this.bar.hidden = isOver(song);
    this.bar.setAttribute("aria-label", song.stage ?? song.state);
    if (song.n_ahead) this.bar.value = 0;
    else if (song.total_s && song.done_s) this.bar.value = song.done_s / song.total_s;
    else this.bar.removeAttribute("value");
    this.status.classList.toggle("failure", song.state === "failed");
    this.status.textContent = this.sentence(song);
    const said = `${song.name}: ${{ failed: song.error, done: "Done." }[song.state] ?? song.stage}`;
    if (byId("announcer").textContent !== said) byId("announcer").textContent = said;
    if (song.track) this.showPlayer(song);
  }

  sentence(song) {
    if (song.state === "failed") return song.error;
    if (song.state === "cancelled") return "Cancelled. Nothing was kept.";
    if (song.state === "done") {
      const tempo = [song.tempo_bpm && `${Math.round(song.tempo_bpm)} BPM`, song.key].filter(Boolean).join(", ");
      return [song.model && `separated with ${song.model}`, tempo, ...song.notes].filter(Boolean).map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`).join(" ");
    }
    if (song.n_ahead) return `Waiting for ${song.n_ahead} other ${song.n_ahead === 1 ? "song" : "songs"}`;
    const left = song.remaining_s ? `, ${minutes(song.remaining_s)} left` : "";
    const wanted = this.player?.wanted ?? null;
    const place = wanted === null ? "Meanwhile, listen to a preview; a click in the waveform makes one from there." : `Preparing a preview from ${clock(wanted)}.`;
    const preview = song.preview_error ?? (song.track ? place : "");
    return `${song.stage}${left}${preview && `. ${preview}`}`;
  }

  showPlayer(song) {
    if (this.player) {
      this.player.setSong(song);
      return;
    }
    // The file is gone after a reload; then no part of it can be separated anew.
    const separatePart = this.file && engine.hasRegions && (([from, to]) => new SongCard().start(this.file, { ...chosenOptions(), from_s: from.toFixed(3), to_s: to.toFixed(3) }));
    this.player = new Player(song, (seconds) => engine.preview(this.song, seconds), separatePart);
    this.body.append(this.player.element);
    this.body.hidden = false;
  }

  async discard() {
    this.player?.stop();
    if (this.song.id) await engine.remove(this.song).catch(() => null);
    else this.song.cancel?.();
    this.element.remove();
  }
}

// Of several songs, players are folded, so that what one sees is a list.
function take(files) {
  if (!form.checkValidity()) form.querySelector("details").open = true;
  if (!form.reportValidity()) return;
  if (byId("separate").hidden) location.hash = "separate";
  for (const file of files) new SongCard({ isOpen: files.length === 1 }).start(file, chosenOptions());
}

// All files of what was dropped, folders searched to the bottom; of those, what may be a song.
async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => { entry.file(resolve, reject); })];
  const [reader, found] = [entry.createReader(), []];
  for (;;) {
    const entries = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!entries.length) return found;
    for (const one of entries) found.push(...(await filesOf(one)).filter(({ type }) => /^(audio|video)\//.test(type)));
  }
}

function connectDrop() {
  byId("files").onchange = () => {
    take([...byId("files").files]);
    byId("files").value = "";
  };
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dropping", kind === "dragenter" || kind === "dragover");
    });
  }
  document.addEventListener("drop", async (event) => {
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    take((await Promise.all(entries.map(filesOf))).flat());
  });
}

function connectRecording() {
  const button = byId("record");
  let recorder = null;
  const label = (text) => button.replaceChildren(make("i"), ` ${text}`);
  button.onclick = async () => {
    if (recorder) {
      recorder.stop();
      return;
    }
    byId("complaint").textContent = "";
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
      recorder = new MediaRecorder(stream);
      recorder.ondataavailable = ({ data }) => take([new File([data], `Recording ${new Date().toLocaleTimeString().replaceAll(":", ".")}.${data.type.includes("mp4") ? "mp4" : "webm"}`)]);
      recorder.onstop = () => {
        for (const track of stream.getTracks()) track.stop();
        recorder = null;
        label("Record");
      };
      recorder.start();
      label("Stop");
    } catch (error) {
      byId("complaint").textContent = `There is no microphone to record from (${error.message}).`;
    }
  };
}

async function showReports() {
  const reports = await engine.reports();
  const [select, frame, link] = [byId("report"), byId("report-frame"), byId("report-link")];
  const title = ({ models, date }) => [models.join(" against "), date].filter(Boolean).join(", ");
  const chosen = select.value;
  select.replaceChildren(...reports.map((one) => make("option", { value: one.path, selected: one.path === chosen }, title(one))));
  byId("report-shown").hidden = !reports.length;
  byId("no-reports").hidden = reports.length > 0;
  select.onchange = () => {
    const { path, machine, commit } = reports.find((one) => one.path === select.value);
    byId("report-facts").textContent = [path, machine, commit && `commit ${commit}`].filter(Boolean).join(" · ");
    const address = `reports/${path.split("/").map(encodeURIComponent).join("/")}`;
    if (frame.getAttribute("src") !== address) frame.src = link.href = address;
  };
  if (reports.length) select.onchange();
}

// Shows the section that the address names.
function showSection() {
  const shown = location.hash === "#reports" && engine.reports ? "reports" : "separate";
  for (const link of document.querySelectorAll("nav a")) {
    const name = link.hash.slice(1);
    byId(name).hidden = name !== shown;
    link.setAttribute("aria-current", name === shown ? "page" : "false");
  }
  if (shown === "reports") showReports();
}

// What can be had of a model's sources: all stems, two, or the song without one of them.
function offerStems(sources) {
  const choices = sources.length > 2 || !sources.includes("vocals") ? [["stems=all", `All: ${sources.join(", ")}`]] : [];
  if (sources.includes("vocals")) choices.push(["", "Vocals and accompaniment"]);
  for (const source of sources) choices.push([String(new URLSearchParams({ without: source })), `Everything but ${source}`]);
  form.elements.stems.replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
  const forDjs = form.querySelector("[value='stem.mp4']");
  forDjs.disabled = sources.length !== 4;
  if (forDjs.disabled && forDjs.selected) form.elements.format.selectedIndex = 0;
}

// What a model is for: the best vocals that were measured, the least time, all of a band, other people's.
function purposesOf({ sources, vocals_db: db, real_time_factor: factor, is_imported: isImported }, models) {
  const isQuickest = models.every((one) => one.real_time_factor >= factor);
  const isBest = (others) => db && others.every((one) => db >= (one.vocals_db ?? 0));
  const ofAsMany = models.filter((one) => one.sources.length === sources.length);
  const purposes = [
    isBest(models) && "best vocals",
    factor && isQuickest && "quick",
    sources.length > 2 && `${ofAsMany.length > 1 && isBest(ofAsMany) ? "best " : ""}${sources.length} stems`,
    isImported && "imported",
  ].filter(Boolean).join(", ") || "vocals";
  return purposes[0].toUpperCase() + purposes.slice(1);
}

// Models by what they are for, with the time that each takes; the server measures that after its start.
async function offerModels() {
  const [select, models] = [form.elements.model, await engine.models()];
  if (!select.options.length) select.replaceChildren(...models.map(({ name }) => make("option", { value: name })));
  models.forEach((model, i) => {
    const { name, real_time_factor: factor } = model;
    select.options[i].textContent = `${purposesOf(model, models)} (${name})${factor ? `, about ${minutes(EXAMPLE_S * factor)}` : ""}`;
  });
  select.onchange = () => {
    const { sources, licence } = models[select.selectedIndex];
    byId("licence").textContent = licence;
    offerStems(sources);
  };
  if (!form.elements.stems.options.length) select.onchange();
  if (models.some((model) => model.real_time_factor === null)) setTimeout(offerModels, 5_000);
}

history.replaceState(null, "", location.pathname + location.hash); // without the token that it was opened with
byId("privacy").textContent = engine.privacy;
connectDrop();
connectRecording();
addEventListener("hashchange", showSection);
showSection();
document.addEventListener("plays", ({ detail }) => {
  for (const { player } of document.querySelectorAll(".player")) if (player !== detail && player.playing) player.stop();
});
await offerModels();
const found = await engine.songs().catch((error) => {
  byId("complaint").textContent = error.message;
  return [];
});
for (const song of found) {
  const card = new SongCard({ isOpen: song === found.at(-1) });
  engine.follow(song, (now) => card.show(now));
}
document.body.dataset.ready = "true";
