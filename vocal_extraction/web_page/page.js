// The page: takes songs, shows each one's way through the separation, and shows reports.
import { ServerEngine } from "./engine.js";
import { Player, clock, make } from "./player.js";

const engine = new ServerEngine();
const byId = (id) => document.getElementById(id);
const form = byId("options");

const PURPOSES = { studio: "Best quality (studio)", classic: "Quick (classic)" };

function announce(text) {
  if (byId("announcer").textContent !== text) byId("announcer").textContent = text;
}

// A song of the list, from its upload to its player.
class SongCard {
  constructor() {
    this.title = make("h2");
    this.remove = make("button", { className: "small", onclick: () => this.discard() }, "Cancel");
    this.status = make("p", { className: "status" });
    this.bar = make("progress", { max: 1 });
    this.body = make("div");
    this.element = make("article", {}, make("div", { className: "head" }, this.title, this.remove), this.status, this.bar, this.body);
    byId("songs").prepend(this.element);
  }

  async start(file) {
    const options = Object.fromEntries(new FormData(form));
    try {
      await engine.separate(file, options, (song) => this.show(song));
    } catch (error) {
      this.show({ ...this.song, name: file.name, state: "failed", error: error.message });
    }
  }

  show(song) {
    this.song = song;
    this.element.dataset.state = song.state;
    this.title.textContent = song.name;
    this.element.setAttribute("aria-label", song.name);
    const isOver = ["done", "failed", "cancelled"].includes(song.state);
    this.remove.textContent = isOver ? "Remove" : "Cancel";
    this.remove.setAttribute("aria-label", `${this.remove.textContent} ${song.name}`);
    this.bar.hidden = isOver;
    this.bar.setAttribute("aria-label", song.stage ?? song.state);
    if (song.total_s && song.done_s) this.bar.value = song.done_s / song.total_s;
    else this.bar.removeAttribute("value");
    this.status.classList.toggle("failure", song.state === "failed");
    this.status.textContent = this.sentence(song);
    announce(`${song.name}: ${{ failed: song.error, done: "Done." }[song.state] ?? song.stage}`);
    this.showPlayer(song);
  }

  sentence(song) {
    if (song.state === "failed") return song.error;
    if (song.state === "cancelled") return "Cancelled. Nothing was kept.";
    if (song.state === "done") return song.notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`).join(" ");
    if (song.n_ahead) return `Waiting for ${song.n_ahead} other ${song.n_ahead === 1 ? "song" : "songs"}`;
    const left = song.remaining_s && song.stage === "Separating" ? `, ${song.remaining_s < 60 ? `${Math.ceil(song.remaining_s)} s` : `${clock(song.remaining_s)} min`} left` : "";
    const preview = song.track && !song.isWhole ? ". Meanwhile, listen to a preview: click anywhere in the waveform." : "";
    return `${song.stage}${left}${preview}`;
  }

  showPlayer(song) {
    if (!song.track) return;
    if (this.player) this.player.setSong(song);
    else {
      this.player = new Player(song, (seconds) => engine.preview(this.song, seconds));
      this.body.append(this.player.element);
    }
  }

  async discard() {
    this.player?.stop();
    this.element.remove();
    if (this.song.cancel && !this.song.id) this.song.cancel();
    else if (this.song.id) await engine.remove(this.song).catch(() => null);
  }
}

function take(files) {
  for (const file of files) new SongCard().start(file);
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
      document.body.classList.toggle("dropping", kind.startsWith("drage") || kind === "dragover");
    });
  }
  document.addEventListener("drop", async (event) => {
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    for (const entry of entries) take(await filesOf(entry));
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
      byId("complaint").textContent = "";
    } catch (error) {
      byId("complaint").textContent = `There is no microphone to record from (${error.message}).`;
    }
  };
}

async function showReports() {
  const names = await engine.reports();
  const [select, frame, link] = [byId("report"), byId("report-frame"), byId("report-link")];
  const chosen = names.includes(select.value) ? select.value : names[0];
  select.replaceChildren(...names.map((name) => make("option", { value: name, selected: name === chosen }, name)));
  for (const element of [select.parentElement, frame, link]) element.hidden = !names.length;
  byId("no-reports").hidden = names.length > 0;
  select.onchange = () => {
    const address = `/reports/${select.value.split("/").map(encodeURIComponent).join("/")}`;
    if (frame.getAttribute("src") !== address) frame.src = link.href = address;
  };
  if (names.length) select.onchange();
}

function connectTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const choose = (tab) => {
    for (const one of tabs) {
      one.setAttribute("aria-selected", String(one === tab));
      one.tabIndex = one === tab ? 0 : -1;
      byId(one.getAttribute("aria-controls")).hidden = one !== tab;
    }
    tab.focus();
    if (tab.id === "tab-reports") showReports();
  };
  for (const tab of tabs) {
    tab.onclick = () => choose(tab);
    tab.onkeydown = (event) => { if (/^Arrow(Left|Right)$/.test(event.key)) choose(tabs[1 - tabs.indexOf(tab)]); };
  }
}

// What can be had of a model's sources: all stems, two, or the song without one of them.
function offerStems(sources) {
  const choices = sources.length > 1 ? [["stems=all", `All: ${sources.join(", ")}`]] : [];
  if (sources.includes("vocals")) choices.push(["", "Vocals and accompaniment"]);
  for (const source of sources) choices.push([`without=${source}`, `Everything but ${source}`]);
  form.elements.stems.replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
}

async function begin() {
  history.replaceState(null, "", "/"); // without the token that it was opened with
  byId("privacy").hidden = !ServerEngine.isLocal;
  connectDrop();
  connectRecording();
  connectTabs();
  document.addEventListener("plays", ({ detail }) => {
    for (const { player } of document.querySelectorAll(".player")) if (player !== detail && player.playing) player.stop();
  });
  const models = await engine.models();
  form.elements.model.replaceChildren(...models.map(({ name }) => make("option", { value: name }, PURPOSES[name] ?? name)));
  form.elements.model.onchange = () => offerStems(models.find(({ name }) => name === form.elements.model.value).sources);
  form.elements.model.onchange();
  for (const song of await engine.songs()) {
    const card = new SongCard();
    if (["queued", "working"].includes(song.state)) engine.follow(song, (now) => card.show(now));
    else card.show(song);
  }
  document.body.dataset.ready = "true";
}

begin();
