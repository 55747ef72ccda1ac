import { browser } from './browser.js';
import { fetchTransport } from './fetch-transport.js';
import type { Transport } from './transport.js';
import { type Progress, type Store, upload } from './upload.js';
import type { Retry } from './wait.js';
import { xhrTransport } from './xhr-transport.js';

export type { Progress, Retry, Store };

/** Options of `resumableFetch`. */
export interface ResumableFetchOptions {
  readonly onProgress?: (progress: Progress) => void;
  /** Pauses the upload: the promise rejects with the signal's reason, and the same call later goes on. */
  readonly signal?: AbortSignal;
  /** Keeps the URLs of uploads for later runs; `localStorage` by default where it exists, `null` to keep nothing. */
  readonly store?: Store | null;
  /** Names the content for later runs. By default a `File` is known by name, size and time; other content is not kept. */
  readonly key?: string;
  /** By default twelve failures without progress end the upload. */
  readonly retry?: Retry;
}

/**
 * Sends a request whose body survives lost connections, reloads and restarts, to a server that takes resumable uploads.
 * Takes what `fetch` takes, with `POST` as the default method, and resolves with the origin's answer. Rejects only when
 * it is aborted, when its attempts end, or when the server does not take resumable uploads.
 */
export async function resumableFetch(
  input: string | URL,
  init: RequestInit = {},
  options: ResumableFetchOptions = {},
): Promise<Response> {
  const { body = null, method = 'POST' } = init;
  const { onProgress, retry, signal = init.signal ?? undefined } = options;
  const url = new URL(input, browser.location?.href).href;
  // The standard's own conversion of forms, strings and buffers, with their media types.
  const content = new Response(body);
  const source = body instanceof Blob ? body : await content.blob();
  const headers = new Headers(init.headers);
  const type = content.headers.get('content-type');
  if (type !== null && !headers.has('content-type')) headers.set('content-type', type);
  const name = options.key ?? nameOf(source);
  return upload({
    url,
    method,
    headers,
    source,
    transport: bestTransport(init),
    key: name === undefined ? undefined : `rufh ${method} ${url} ${source.size} ${name}`,
    store: options.store === undefined ? localStore() : (options.store ?? undefined),
    signal,
    onProgress,
    retry,
  });
}

function bestTransport(init: RequestInit): Transport<Blob> {
  const byFetch = fetchTransport(init);
  const byXhr = browser.XMLHttpRequest && xhrTransport(init);
  return (request) => (request.body && byXhr ? byXhr(request) : byFetch(request));
}

/** A name for a file that another file is unlikely to have; undefined for other content. */
function nameOf(content: Blob): string | undefined {
  return content instanceof File ? `${content.lastModified} ${content.name}` : undefined;
}

/** `localStorage` as a store; undefined where there is none, or where a page may not use it. */
function localStore(): Store | undefined {
  const storage = attempt(() => browser.localStorage);
  return (
    storage && {
      get: (key) => storage.getItem(key),
      // Without room the upload goes on, but cannot be found by a later run.
      set: (key, value) => attempt(() => storage.setItem(key, value)),
      delete: (key) => storage.removeItem(key),
    }
  );
}

/** The result of `act`; undefined if the browser refuses. */
function attempt<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch {
    // Pages in a sandbox may not store anything, and the space of the others is limited.
    return undefined;
  }
}
