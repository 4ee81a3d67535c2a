// What this tab knows: the photographs, in the order given, and what was answered. In memory only.

export const session = Object.assign(new EventTarget(), {
  photographs: [],
  /** The one that is looked at. */
  current: null,
});

let given = 0;

export class Photograph {
  number = ++given;
  /** waiting, sending, reading, answered or failed */
  status = "waiting";
  sent = 0;
  /** Answers by what was asked for; `answer` is the one to the photograph as such. */
  explained = new Map();
  answer = null;
  problem = null;
  /** A person's word: a class, OTHER or NOT_COUNTED. */
  reader = null;
  /** The one that is the same to the model, and counted in its place. */
  same = null;
  /** What the server shows of it, where the browser cannot. */
  picture = null;
  tries = 0;

  constructor(blob, name) {
    this.blob = blob;
    this.name = name;
    this.url = URL.createObjectURL(blob);
  }

  /** One that is there, and cannot be had. */
  static lost(name, problem) {
    return Object.assign(new Photograph(new Blob(), name), { status: "failed", problem });
  }

  release() {
    URL.revokeObjectURL(this.url);
    if (this.picture) URL.revokeObjectURL(this.picture);
  }

  get open() {
    return this.status !== "answered" && this.status !== "failed";
  }

  /** What it counts as, for a person's eyes: a class, OTHER, NOT_COUNTED, or null for not sure. */
  get label() {
    return this.reader ?? (this.answer && !this.answer.abstain ? this.answer.prediction : null);
  }
}

export function add(photographs) {
  session.photographs.push(...photographs);
  changed();
}

export function look(photograph) {
  session.current = photograph;
  changed(photograph);
}

export function forget() {
  for (const photograph of session.photographs) photograph.release();
  session.photographs = [];
  session.current = null;
  changed();
}

/** Tell all parts that a photograph, or the whole session, is not what it was. */
export function changed(photograph = null) {
  session.dispatchEvent(new CustomEvent("change", { detail: photograph }));
}
