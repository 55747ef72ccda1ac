import { sha256Of } from './content.js';
import { formatBytes, view } from './view.js';

const SIGNS = { cut: '✂', killed: '☠' };
/** The proxy may be down when the page asks what the API got. */
const MOST_QUESTIONS = 20;
const QUESTION_DELAY_MS = 500;

/** One upload, from the first request to the proof: counts bytes, and tells what happens. */
export class Run {
  safe = 0;
  sent = 0;
  isOver = false;
  cuts = 0;
  kills = 0;
  #sentInAll = 0;
  #sentByRequest = 0;
  /** Where this run began, which is not the beginning of the file after a reload. */
  #first;
  #highest = 0;
  #told = 0;
  #isLost = false;
  #startedAt = performance.now();
  #hash;

  constructor(file, target) {
    this.size = file.size;
    this.target = target;
    this.#hash = sha256Of(file);
    view.clear();
    view.state = 'sending';
    view.status = 'Sending.';
    view.line('sending');
    this.#show();
    this.#say('→', `POST ${decodeURIComponent(target)}, ${formatBytes(file.size)}`);
  }

  /** Something on the network, from `observeRequests`. */
  observe({ kind, method, offset, hasBytes, to, status, safe }) {
    switch (kind) {
      case 'request':
        this.#sentByRequest = 0;
        if (hasBytes) {
          this.sent = offset;
          this.#first ??= offset;
        }
        break;
      case 'sent':
        this.#sentInAll += to - offset - this.#sentByRequest;
        this.#sentByRequest = to - offset;
        this.sent = to;
        this.#highest = Math.max(this.#highest, to);
        this.#continues();
        break;
      case 'lost':
        this.#loses(
          hasBytes ? `Connection lost at ${formatBytes(this.sent)}` : `${QUESTIONS[method] ?? method}: no answer`,
        );
        break;
      case 'stopped':
        break;
      case 'response':
        if (safe !== undefined && status < 300) this.#isTold(safe);
        if (method === 'HEAD' && status < 300) this.#resumes(safe);
        if (status >= 400) this.#say('!', `${method}: ${status}`, 'bad');
        break;
    }
    this.#show();
  }

  /** Something that happened in the demo. */
  hear(event) {
    switch (event.kind) {
      case 'cut':
      case 'killed':
        if (event.kind === 'cut') this.cuts++;
        else this.kills++;
        view.mark(this.sent / Math.max(this.size, 1), SIGNS[event.kind]);
        this.#say(SIGNS[event.kind], `${BROKEN[event.kind]} at ${formatBytes(this.sent)}`, 'bad');
        break;
      case 'started':
        this.#say('↻', `Proxy started again, ${(event.tookMs / 1000).toFixed(1)} s after it was killed`);
        break;
      case 'restored':
        this.#say('↻', 'Connections go through again');
        break;
      case 'uploads': {
        const upload = event.uploads.find(({ target }) => target === this.target);
        if (upload) this.#knows(upload.offset);
        break;
      }
      case 'origin-began':
        if (event.target !== this.target) break;
        view.api('receiving', 'gets the file');
        this.#say('→', `API: a ${event.method} with Content-Length ${event.contentLength ?? 'missing'}`);
        break;
      case 'origin-received':
        if (event.target !== this.target) break;
        view.api('received', `got one ${event.method}`);
        this.#say('✔', `API: all of it, ${formatBytes(event.size)}, SHA-256 ${event.sha256.slice(0, 12)}…`, 'good');
        break;
    }
    this.#show();
  }

  /** Ends with the answer of the API, which the client has, and compares what the API got with the file. */
  async end({ status, body }) {
    if (this.isOver) return;
    this.isOver = true;
    view.line('up');
    this.#say(
      status < 300 ? '✔' : '!',
      `Answer of the API: ${status} ${shortened(body.trim())}`,
      status < 300 ? 'good' : 'bad',
    );
    if (status < 300) this.#knows(this.size);
    this.#show();
    view.status = 'Compares what the API got with the file.';
    await this.#prove(status);
  }

  /** Ends without an answer. */
  fail(reason) {
    if (this.isOver) return;
    this.isOver = true;
    view.line('up');
    view.state = 'failed';
    view.status = reason;
    this.#say('!', reason, 'bad');
  }

  async #prove(status) {
    const received = await this.#received();
    const { hex, reason } = await this.#hash;
    const complete = received?.filter(({ sha256 }) => sha256 !== undefined) ?? [];
    const [request = received?.[0]] = complete;
    const isWhole = complete.length === 1 && request.size === this.size;
    const isEqual = hex === undefined || hex === request?.sha256;
    const isPlain = request?.protocolFields.length === 0;
    const holds = status < 300 && isWhole && isEqual && isPlain;
    const brokenOff = (received?.length ?? 0) - complete.length;
    const facts = [
      { name: 'Requests', text: received ? received.map(describe).join(', ') : 'unknown' },
      {
        name: 'Content-Length',
        text: `${request?.contentLength ?? 'missing'}, and as many bytes arrived: ${isWhole ? 'yes' : 'no'}`,
      },
      {
        name: 'Upload protocol',
        text: isPlain ? 'no header field of it' : (request?.protocolFields.join(', ') ?? 'unknown'),
      },
      { name: 'SHA-256 of the file', text: hex ?? reason, isHash: hex !== undefined },
      { name: 'SHA-256 at the API', text: request?.sha256 ?? 'unknown', isHash: true },
      {
        name: 'On the way',
        text: `${times(this.cuts, 'cut')}, ${times(this.kills, 'kill -9')}, ${formatBytes(this.#again)} sent again`,
      },
      ...(brokenOff > 0 ? [{ name: 'Broken off', text: BROKEN_OFF }] : []),
    ];
    view.prove(titleOf({ holds, status, brokenOff, request }), facts, holds);
    if (isWhole) view.api('received', `got one ${request.method}`);
    view.state = holds ? 'done' : 'failed';
    view.status = holds
      ? `Done. Your API has answered with ${status}.`
      : `The upload has ended with ${status}; see below.`;
  }

  /** The requests that the API got at this target; undefined if it cannot be asked. */
  async #received() {
    for (let asked = 0; asked < MOST_QUESTIONS; asked++) {
      try {
        const response = await fetch(`/received?target=${encodeURIComponent(this.target)}`);
        if (response.ok) return await response.json();
      } catch {
        // The connection was cut, or the proxy killed.
      }
      await new Promise((resolve) => setTimeout(resolve, QUESTION_DELAY_MS));
    }
    return undefined;
  }

  get #again() {
    return Math.max(0, this.#sentInAll - (this.#highest - (this.#first ?? 0)));
  }

  /** Takes an offset that the client was told. */
  #isTold(offset) {
    if (offset < this.#told)
      this.#say('!', `The offset went back from ${formatBytes(this.#told)} to ${formatBytes(offset)}`, 'bad');
    this.#told = offset;
    this.#knows(offset);
  }

  /** Takes an offset from anywhere. The proxy may have more than it tells a client (the last byte of an upload). */
  #knows(safe) {
    this.safe = Math.max(this.safe, safe);
  }

  #loses(text) {
    this.#isLost = true;
    this.#say('✘', text, 'bad');
    if (view.state === 'sending') view.state = 'waiting';
    view.line('down');
    view.status = 'The connection is gone. The client tries again.';
  }

  #resumes(safe) {
    this.#say('?', `The proxy has ${formatBytes(safe)}. The client goes on from there.`, 'good');
    this.#isLost = true;
    this.#continues();
  }

  #continues() {
    if (!this.#isLost) return;
    this.#isLost = false;
    view.state = 'sending';
    view.line('sending');
    view.status = 'Sending.';
  }

  #say(sign, text, tone) {
    view.log((performance.now() - this.#startedAt) / 1000, { sign, text, tone });
  }

  #show() {
    view.progress({ safe: this.safe, sent: Math.max(this.sent, this.safe), size: this.size, again: this.#again });
  }
}

const QUESTIONS = { HEAD: 'The client asks how much has arrived', POST: 'The client asks to begin' };
const BROKEN = { cut: 'Connection cut', killed: 'Proxy killed' };

/** The explanation of a `kill -9` during the delivery (docs/delivery.md). */
const BROKEN_OFF =
  'The proxy was killed while it delivered. It cannot know what the API has done with the first request, so it never ' +
  'repeats it silently: it told the client, and the next attempt of the client asked for another one.';

function titleOf({ holds, status, brokenOff, request }) {
  if (!holds && status >= 300) return `✘ The answer is ${status}`;
  if (!holds) return '✘ The API did not get exactly one complete request';
  const title = `✔ Your API got one ${brokenOff > 0 ? 'complete ' : ''}${request.method}, and every byte of it`;
  return brokenOff > 0 ? `${title}, after one that the kill broke off` : title;
}

function describe({ method, target, size, sha256 }) {
  const request = `${method} ${decodeURIComponent(target)}`;
  return sha256 === undefined ? `${request} (broken off at ${formatBytes(size)})` : request;
}

function shortened(text) {
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}

function times(count, what) {
  return `${count} × ${what}`;
}
