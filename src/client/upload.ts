import { type AppendSizes, AppendSize, limitIn, USUAL_SIZES } from './append-size.js';
import { browser } from './browser.js';
import type { Piece, Source, Transport } from './transport.js';
import { type Step, type Verdict, verdictOf } from './verdict.js';
import { isOffline, type Retry, retryAfterMs, retryWithBackoff, wait } from './wait.js';

/** The version of the draft that requests name (RUFH, all drafts: on every request). */
const INTEROP_VERSION = '10';

/** A request without a body gets its response within this time, or is repeated. */
const SHORT_REQUEST_MS = 60_000;
/** An append whose bytes move no further for so long is repeated, because its connection may be dead. */
const STALLED_MS = 30_000;
/** The same once all of its bytes are sent: the origin may need long for its answer. */
const SILENT_MS = 300_000;

/** Keeps the URL of an upload, so that a later run finds it. The URL is a secret: it gives access to the upload. */
export interface Store {
  get(key: string): string | null | undefined | Promise<string | null | undefined>;
  set(key: string, value: string): unknown;
  delete(key: string): unknown;
}

/** How far an upload is. */
export interface Progress {
  /** Bytes that were sent; this can go down when a connection was cut. */
  readonly loaded: number;
  /** The size of the content in bytes; undefined while it is unknown. */
  readonly total: number | undefined;
}

/** Everything about one upload. */
export interface UploadTask<P extends Piece> {
  readonly url: string;
  readonly method: string;
  /** Sent with every request, because the server may authorize each of them; fields about the content only once. */
  readonly headers: Headers;
  readonly source: Source<P>;
  readonly transport: Transport<P>;
  /** The same in every run for the same content and target; undefined if nothing is to be kept. */
  readonly key?: string;
  readonly store?: Store;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (progress: Progress) => void;
  readonly retry?: Retry;
  readonly sizes?: AppendSizes;
}

/**
 * Uploads the content and resolves with the answer of the origin, or with the refusal that ends the upload. Rejects with
 * the signal's reason when that is aborted, and otherwise only if the attempts end or the server is not resumable. The
 * content goes to the origin once, whatever happens on the way.
 * Reasons: docs/decisions/0035.
 */
export async function upload<P extends Piece>(task: UploadTask<P>): Promise<Response> {
  return new Upload(task).run();
}

class Upload<P extends Piece> {
  private url: string | undefined;
  /** The offset of the server; undefined if it has to be asked for. */
  private offset: number | undefined = 0;
  private highest = 0;
  private failures = 0;
  private endWasSent = false;
  private piece: P | undefined;
  private refusal: Response | undefined;
  private readonly size: AppendSize;

  constructor(private readonly task: UploadTask<P>) {
    this.size = new AppendSize(task.sizes ?? USUAL_SIZES);
  }

  async run(): Promise<Response> {
    const { signal } = this.task;
    await this.recall();
    for (;;) {
      signal?.throwIfAborted();
      const startedAt = performance.now();
      const step = await this.nextStep();
      let response: Response | undefined;
      let cause: unknown;
      try {
        cause = response = await this.send(step);
      } catch (error) {
        signal?.throwIfAborted();
        cause = error;
      }
      const verdict = response ? await this.judge(step, response, performance.now() - startedAt) : 'retry';
      if (typeof verdict === 'object') return verdict;
      if (verdict === 'retry') await this.delay(step, response, cause);
    }
  }

  /** Finds the upload of an earlier run. The stored value says whether its end was sent, and where it is. */
  private async recall(): Promise<void> {
    const { key, store } = this.task;
    const value = key === undefined ? undefined : await store?.get(key);
    if (!value) return;
    this.url = value.slice(3);
    this.endWasSent = value.startsWith('?1');
    this.offset = undefined;
  }

  private async remember(): Promise<void> {
    const { key, store } = this.task;
    if (key === undefined) return;
    if (this.url === undefined) await store?.delete(key);
    else await store?.set(key, `?${this.endWasSent ? 1 : 0} ${this.url}`);
  }

  private async nextStep(): Promise<Step> {
    const { source } = this.task;
    this.piece = undefined;
    if (this.url === undefined) return 'create';
    if (this.offset === undefined) return 'ask';
    this.piece = await source.slice(this.offset, this.offset + this.size.bytes);
    if (this.offset + this.piece.size !== source.size) return 'append';
    // From here on the origin may get the content, even if nothing is heard of it.
    this.endWasSent = true;
    await this.remember();
    return 'end';
  }

  private async send(step: Step): Promise<Response> {
    const { task, piece, offset = 0 } = this;
    const { source, signal, transport } = task;
    const attempt = new AbortController();
    const stop = (): void => attempt.abort();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const stopAfter = (ms: number): void => {
      clearTimeout(timer);
      timer = setTimeout(stop, ms);
    };
    const onProgress = (sent: number): void => {
      stopAfter(sent < (piece?.size ?? 0) ? STALLED_MS : SILENT_MS);
      task.onProgress?.({ loaded: offset + sent, total: source.size });
    };
    signal?.addEventListener('abort', stop);
    browser.addEventListener?.('offline', stop);
    if (!piece) stopAfter(SHORT_REQUEST_MS);
    try {
      return await transport({
        url: this.url ?? task.url,
        method: step === 'create' ? task.method : step === 'ask' ? 'HEAD' : 'PATCH',
        headers: this.headersOf(step),
        body: piece,
        signal: attempt.signal,
        onProgress,
      });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
      browser.removeEventListener?.('offline', stop);
    }
  }

  private headersOf(step: Step): Headers {
    const headers = new Headers(this.task.headers);
    const { size } = this.task.source;
    if (step === 'create') {
      if (size !== undefined) headers.set('upload-length', `${size}`);
    } else {
      for (const name of [...headers.keys()]) if (name.startsWith('content-')) headers.delete(name);
    }
    if (this.piece) {
      headers.set('content-type', 'application/partial-upload');
      headers.set('upload-offset', `${this.offset}`);
    }
    if (step !== 'ask') headers.set('upload-complete', step === 'end' ? '?1' : '?0');
    headers.set('upload-draft-interop-version', INTEROP_VERSION);
    return headers;
  }

  /** Takes what a response says. Gives the response if it ends the upload, or how to go on. */
  private async judge(step: Step, response: Response, tookMs: number): Promise<Response | Verdict> {
    const verdict = verdictOf(step, response);
    const { headers } = response;
    const limits = headers.get('upload-limit');
    this.size.obey(limits);
    // The origin may have the content although its answer was lost: only the caller can decide to send it once more.
    const isUnknown = headers.get('proxy-status')?.includes('http_response_incomplete');
    if (step === 'end') this.refusal = verdict === 'retry' ? response : undefined;
    if (isUnknown && this.refusal) return this.refusal;
    switch (verdict) {
      case 'answer':
        if (headers.get('upload-complete')?.startsWith('?1')) await this.forget();
        return response;
      case 'accepted':
        await this.accept(step, response, tookMs);
        return verdict;
      case 'gone': {
        const mayHaveArrived = this.endWasSent;
        await this.forget();
        return mayHaveArrived ? response : 'retry';
      }
      case 'too-large':
        if (this.isTooLong(limits) || !this.size.tooLarge(this.piece!.size)) return response;
        this.offset = undefined;
        return verdict;
      case 'retry':
        return verdict;
      case 'not-resumable':
        throw new TypeError(`${this.task.url} takes no resumable uploads, or hides its header fields (CORS).`);
    }
  }

  private async accept(step: Step, { headers, url }: Response, tookMs: number): Promise<void> {
    const { source } = this.task;
    const offset = Number(headers.get('upload-offset'));
    if (step === 'append') this.size.succeeded(tookMs);
    if (step === 'create') this.url = new URL(headers.get('location')!, url || this.task.url).href;
    if (step === 'ask' && offset + 1 < (source.size ?? 0)) this.endWasSent = false;
    if (step !== 'append') await this.remember();
    this.moveTo(offset);
    this.task.onProgress?.({ loaded: offset, total: source.size });
  }

  private moveTo(offset: number): void {
    this.offset = offset;
    if (offset > this.highest) {
      this.highest = offset;
      this.failures = 0;
    }
  }

  /** Waits before the next attempt, which begins with asking for the offset unless the server has just told it. */
  private async delay(step: Step, response: Response | undefined, cause: unknown): Promise<void> {
    const { signal, retry = retryWithBackoff } = this.task;
    if (!isOffline()) this.failures += 1;
    if (this.piece) this.size.failed(this.piece.size);
    const delayMs = retry(this.failures, cause);
    if (delayMs === undefined) throw new Error('Too many attempts failed.', { cause });
    const told = response?.status === 409 ? response.headers.get('upload-offset') : null;
    if (this.url !== undefined) this.offset = undefined;
    if (told !== null) this.moveTo(Number(told));
    await wait(response ? Math.max(delayMs, retryAfterMs(response.headers)) : delayMs, signal);
  }

  private async forget(): Promise<void> {
    this.url = undefined;
    this.offset = 0;
    this.endWasSent = false;
    await this.remember();
  }

  private isTooLong(limits: string | null): boolean {
    const { size = 0 } = this.task.source;
    return Math.max(size, this.offset! + this.piece!.size) > (limitIn(limits, 'max-size') ?? Infinity);
  }
}
