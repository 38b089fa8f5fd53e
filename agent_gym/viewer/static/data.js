"use strict";
// Where the page's data comes from: the server, or what an offline report carries.

(() => {
  const embedded = readEmbedded();

  /** What a request came to when it was not data: a sentence to show. */
  class Unavailable extends Error {}

  function readEmbedded() {
    const element = document.getElementById("embedded");
    if (!element) return null;
    const answers = new Map();
    for (const [path, answer] of Object.entries(JSON.parse(element.textContent))) answers.set(normal(path), answer);
    return answers;
  }

  /** A path with its parameters decoded, sorted by name and encoded again. */
  function normal(path) {
    const [name, query = ""] = path.split("?");
    const sorted = gym.encode(Object.fromEntries(new URLSearchParams(query)));
    return sorted ? `${name}?${sorted}` : name;
  }

  /**
   * Return the answer of the API to a path with parameters.
   * @throws {Unavailable} with a sentence that says what is missing and what to do.
   */
  async function get(name, parameters = {}) {
    const query = gym.encode(parameters);
    const path = `/api/${name}${query ? "?" + query : ""}`;
    if (embedded) return fromReport(path, name, parameters);
    let response;
    try {
      response = await fetch(path, { headers: { accept: "application/json" } });
    } catch {
      throw new Unavailable("The server does not answer: start agent-gym view again, then reload this page.");
    }
    const answer = await response.json().catch(() => null);
    if (!response.ok) throw new Unavailable(answer?.error ?? `The server answered ${response.status} to ${path}.`);
    return answer;
  }

  function fromReport(path, name, parameters) {
    const answer = embedded.get(path) ?? gym.offline.answer(name, parameters, (other) => embedded.get(other));
    if (answer === undefined) {
      throw new Unavailable(
        "This report is one file and does not hold that: open the run itself with agent-gym view RUN to see it.",
      );
    }
    return answer;
  }

  // -- runs ------------------------------------------------------------------------------------------------------

  let known = [];

  /** Ask which runs there are. */
  async function loadRuns() {
    const answer = await get("runs");
    known = answer.runs;
    gym.version = answer.version;
    return known;
  }

  /** The runs as they were when last asked for. */
  const runs = () => known;

  /** What a run is called in an address: its name, where no other has it and it cannot be taken for a number. */
  function keyOf(run) {
    const plain = /^(?!\d+$)[^,]+$/.test(run.name);
    return plain && known.filter((one) => one.name === run.name).length === 1 ? run.name : String(run.index);
  }

  /** The run that a part of an address means, by its name or its number; undefined where there is none. */
  const findRun = (key) =>
    known.find((run) => keyOf(run) === String(key)) ?? known.find((run) => String(run.index) === String(key));

  gym.runKey = (key) => {
    const run = findRun(key);
    return run ? keyOf(run) : key;
  };

  /** The run that a page is about; undefined where the address names one that is not there. */
  function currentRun(parameters = gym.place().parameters) {
    const key = parameters.run ?? parameters.runs?.split(",")[0];
    return key === undefined ? known[0] : findRun(key);
  }

  /** The runs that the overview lays over each other: all that the address names, or every one. */
  function chosenRuns(parameters) {
    const keys = (parameters.runs ?? parameters.run)?.split(",").map(findRun);
    return keys ? known.filter((run) => keys.includes(run)) : known;
  }

  // -- live updates ----------------------------------------------------------------------------------------------

  const INTERVAL = 2000;
  const seen = new Map();

  /** Call a function each time that something new is written to a run; never in an offline report. */
  function watch(changed) {
    if (embedded) return;
    const look = async () => {
      if (!document.hidden) await compare(changed);
      setTimeout(look, INTERVAL);
    };
    setTimeout(look, INTERVAL);
  }

  async function compare(changed) {
    const fresh = new Set();
    for (const run of known) {
      try {
        const { version } = await get("version", { run: run.index });
        if (seen.has(run.index) && seen.get(run.index) !== version) fresh.add(run.index);
        seen.set(run.index, version);
      } catch (error) {
        if (!(error instanceof Unavailable)) throw error;
      }
    }
    if (fresh.size) await changed(fresh);
  }

  /** Remember the versions of all runs, so that what is written from now on counts as new. */
  async function noteVersions() {
    if (!embedded) await compare(() => {});
  }

  Object.assign(gym, { get, Unavailable, isOffline: embedded !== null, loadRuns, runs, findRun, currentRun, chosenRuns });
  Object.assign(gym, { watch, noteVersions });
})();
