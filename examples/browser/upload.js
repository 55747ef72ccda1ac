// A resumable upload with fetch only: for web pages and, with another storage or none, for Node.
//
// A page cannot see a 104, so the upload is created with an empty body, and the 201 contains its URL. Only the server knows
// how much has arrived, so the client asks it after each interruption.

const KEY = 'unfinished upload ';
const MEBIBYTE = 1024 * 1024;

/** The upload of one file to one URL of an API. */
export class Upload {
  #file;
  #target;
  #options;
  #key;
  #url;
  #offset;
  #shown = 0;
  #failures = 0;
  #stop = new AbortController();

  /**
   * `file` is a File (or a Blob). Options: `method`; `headers` for every request, such as Authorization; `pieceSize`, or
   * Infinity to send everything in one request; `storage`, which remembers the upload's URL, or null; `onProgress(offset, size)`;
   * `onPause(ms, error)`; `firstPauseMs` and `longestPauseMs` between tries.
   */
  constructor(file, target, options = {}) {
    this.#file = file;
    this.#target = target;
    this.#options = {
      method: 'POST',
      headers: {},
      pieceSize: 8 * MEBIBYTE,
      storage: globalThis.localStorage,
      firstPauseMs: 1000,
      longestPauseMs: 30_000,
      ...options,
    };
    const name = file.name ?? 'upload';
    this.#key = KEY + JSON.stringify([name, file.size, file.lastModified, this.#options.method, target]);
    this.#url = this.#options.storage?.getItem(this.#key) ?? undefined;
  }

  /** Continues until the API has answered, and returns its answer: a Response with any status. */
  async send() {
    this.#stop = new AbortController();
    this.#offset = undefined;
    for (;;) {
      try {
        const answer = await this.#step();
        if (answer) return answer;
      } catch (error) {
        if (!(error instanceof Interruption)) throw error;
        this.#offset = undefined;
        await this.#pause(error);
      }
    }
  }

  /** Stops sending; `send` fails with an AbortError. The server keeps the bytes, and another `send` continues from there. */
  pause() {
    this.#stop.abort();
  }

  /** Stops sending for good; the server deletes the bytes. */
  async cancel() {
    this.pause();
    const url = this.#url;
    this.#forget();
    if (!url) return;
    // An upload that cannot be cancelled now expires later.
    await fetch(url, { method: 'DELETE', headers: this.#options.headers }).catch(() => undefined);
  }

  #step() {
    if (this.#url === undefined) return this.#create();
    return this.#offset === undefined ? this.#ask() : this.#append();
  }

  async #create() {
    const { method, storage } = this.#options;
    const response = await this.#request(this.#target, method, {
      'Upload-Complete': '?0',
      'Upload-Length': `${this.#file.size}`,
      'Content-Type': this.#file.type || 'application/octet-stream',
      'Content-Disposition': `attachment; filename*=UTF-8''${encodeName(this.#file.name ?? 'upload')}`,
    });
    const location = response.headers.get('Location');
    // Only the proxy sends "?0". Without it, this is the API's own answer to an empty request.
    if (!response.ok || response.headers.get('Upload-Complete') !== '?0' || !location) throw new Refusal(response);
    this.#url = new URL(location, response.url).href;
    storage?.setItem(this.#key, this.#url);
    const longest = /\bmax-append-size=(\d+)/.exec(response.headers.get('Upload-Limit') ?? '');
    if (longest) this.#options.pieceSize = Math.min(this.#options.pieceSize, Number(longest[1]));
    this.#arrived(0);
  }

  async #ask() {
    const response = await this.#request(this.#url, 'HEAD');
    if (isGone(response)) return this.#forget();
    if (!response.ok) throw new Refusal(response);
    this.#arrived(offsetIn(response));
  }

  async #append() {
    const [start, end] = [this.#offset, Math.min(this.#offset + this.#options.pieceSize, this.#file.size)];
    const fields = {
      'Upload-Offset': `${start}`,
      'Upload-Complete': end === this.#file.size ? '?1' : '?0',
      'Content-Type': 'application/partial-upload',
    };
    const response = await this.#request(this.#url, 'PATCH', fields, this.#file.slice(start, end));
    // "?1" means that this is the API's own answer. A complete upload returns it again for an empty append.
    if (response.headers.get('Upload-Complete') === '?1') {
      this.#arrived(this.#file.size);
      this.#forget();
      return response;
    }
    if (isGone(response)) return this.#forget();
    if (!response.ok) throw new Refusal(response);
    this.#arrived(offsetIn(response));
  }

  /** One request with its complete response. An Interruption means that another try can help. */
  async #request(url, method, headers = {}, body = undefined) {
    const { signal } = this.#stop;
    // An invalid URL or header throws here, outside of the retries.
    const request = new Request(url, { method, headers: { ...this.#options.headers, ...headers }, body, signal });
    let response;
    try {
      response = await fetch(request);
      // The copy includes the body, so an answer that breaks off does not count.
      await response.clone().arrayBuffer();
    } catch (error) {
      signal.throwIfAborted();
      throw new Interruption('The connection is lost.', { cause: error });
    }
    signal.throwIfAborted();
    const isFinal = method === 'PATCH' && response.headers.get('Upload-Complete') === '?1';
    if (isFinal || ![408, 409, 429, 500, 502, 503, 504, 507].includes(response.status)) return response;
    const interruption = new Interruption(`The server answers with ${response.status}.`);
    interruption.afterMs = 1000 * (Number(response.headers.get('Retry-After')) || 0);
    throw interruption;
  }

  /** Doubles the delay until bytes arrive again. A random part keeps clients from retrying at the same time. */
  async #pause(interruption) {
    const { firstPauseMs, longestPauseMs, onPause } = this.#options;
    const longest = Math.min(firstPauseMs * 2 ** this.#failures++, longestPauseMs);
    const ms = Math.max(longest * (0.5 + Math.random() / 2), interruption.afterMs);
    onPause?.(ms, interruption);
    const { signal } = this.#stop;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      signal.addEventListener('abort', () => resolve(clearTimeout(timer)), { once: true });
    });
    signal.throwIfAborted();
  }

  #arrived(offset) {
    if (offset > this.#shown) this.#failures = 0;
    this.#shown = offset;
    this.#offset = offset;
    this.#options.onProgress?.(offset, this.#file.size);
  }

  #forget() {
    this.#url = undefined;
    this.#offset = undefined;
    this.#options.storage?.removeItem(this.#key);
  }
}

/** The files whose uploads an earlier visit began. A new Upload of the same file continues its upload. */
export function unfinishedNames(storage = globalThis.localStorage) {
  const keys = Object.keys(storage).filter((key) => key.startsWith(KEY));
  return keys.map((key) => JSON.parse(key.slice(KEY.length))[0]);
}

/** The server refuses the upload; `response` says why. There is no retry. */
export class Refusal extends Error {
  constructor(response) {
    super(`The server answers with ${response.status}.`);
    this.response = response;
  }
}

class Interruption extends Error {
  /** The server requires a pause of at least this length. */
  afterMs = 0;
}

function offsetIn(response) {
  const value = response.headers.get('Upload-Offset') ?? '';
  if (!/^\d+$/.test(value)) throw new Refusal(response);
  return Number(value);
}

function isGone({ status }) {
  return status === 404 || status === 410;
}

/** RFC 8187 §3.2.1 allows fewer characters than encodeURIComponent leaves as they are. */
function encodeName(name) {
  return encodeURIComponent(name).replace(/['()*]/g, (each) => `%${each.charCodeAt(0).toString(16).toUpperCase()}`);
}
