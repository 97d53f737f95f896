// Stages of the work are spoken.

// Progress is drawn anew several times a second; a screen reader shall hear of a new stage only.
let spoken = "";
let announcer;

function announce(text) {
  if (!announcer) {
    announcer = document.createElement("div");
    announcer.className = "spoken";
    announcer.setAttribute("role", "status");
    document.body.append(announcer);
  }
  if (text !== spoken) announcer.textContent = text;
  spoken = text;
}

class WorkStage extends HTMLElement {
  static observedAttributes = ["data-stage"];

  connectedCallback() {
    announce(this.dataset.stage);
  }

  attributeChangedCallback() {
    if (this.isConnected) announce(this.dataset.stage);
  }
}

customElements.define("work-stage", WorkStage);
