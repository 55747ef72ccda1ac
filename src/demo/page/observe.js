/** Paths of this page's own requests, which are no part of an upload. */
const OWN_PATHS = ['/settings.json', '/received'];

/**
 * Calls `tell` with what every client does on the network, so that no client needs code of its own for that:
 * `request`, `sent` (the offset so far), `response` and `lost`. Has to be called before a client is loaded.
 */
export function observeRequests(tell) {
  const isOurs = ({ origin, pathname }) => origin !== location.origin || OWN_PATHS.includes(pathname);
  const nativeFetch = window.fetch;

  window.fetch = async (input, init = {}) => {
    const url = new URL(input instanceof Request ? input.url : input, location.href);
    if (isOurs(url)) return nativeFetch(input, init);
    const request = { method: init.method ?? 'GET', offset: 0 };
    tell({ kind: 'request', ...request });
    try {
      const response = await nativeFetch(input, init);
      tell({ kind: 'response', ...request, ...read(response.status, (name) => response.headers.get(name)) });
      return response;
    } catch (error) {
      tell({ kind: init.signal?.aborted ? 'stopped' : 'lost', ...request });
      throw error;
    }
  };

  window.XMLHttpRequest = class extends window.XMLHttpRequest {
    #method = '';
    #offset = 0;
    #isOurs = false;

    open(method, url, ...rest) {
      this.#method = method;
      this.#offset = 0;
      this.#isOurs = isOurs(new URL(url, location.href));
      super.open(method, url, ...rest);
    }

    setRequestHeader(name, value) {
      if (name.toLowerCase() === 'upload-offset') this.#offset = Number(value);
      super.setRequestHeader(name, value);
    }

    send(body) {
      if (!this.#isOurs) this.#observe(body);
      super.send(body);
    }

    #observe(body) {
      const request = { method: this.#method, offset: this.#offset };
      const hasBytes = body instanceof Blob && body.size > 0;
      tell({ kind: 'request', ...request, hasBytes });
      if (hasBytes) {
        this.upload.addEventListener('progress', ({ loaded }) => {
          tell({ kind: 'sent', ...request, to: request.offset + loaded });
        });
      }
      this.addEventListener('load', () => {
        // A field that is missing is an error in the console of some browsers, but not of the list of all.
        const all = this.getAllResponseHeaders().toLowerCase();
        const header = (name) => (all.includes(`${name}:`) ? this.getResponseHeader(name) : null);
        tell({ kind: 'response', ...request, hasBytes, ...read(this.status, header) });
      });
      this.addEventListener('error', () => tell({ kind: 'lost', ...request, hasBytes }));
      this.addEventListener('timeout', () => tell({ kind: 'lost', ...request, hasBytes }));
      this.addEventListener('abort', () => tell({ kind: 'stopped', ...request, hasBytes }));
    }
  };
}

/** The parts of a response that tell how far the upload is. */
function read(status, header) {
  const offset = header('upload-offset');
  return { status, safe: offset === null ? undefined : Number(offset) };
}
