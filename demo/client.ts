import { createReadStream } from 'node:fs';
import { request, type ClientRequest, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http';

/** What the demo is told while a file is uploaded. */
export interface Watcher {
  /** The server offers to resume, at this URL. */
  resumable(url: string): void;
  /** A request that carries bytes begins at this offset. */
  sending(method: 'POST' | 'PATCH', offset: number): void;
  /** Bytes up to here were given to the network, on a connection that can be broken. */
  sent(offset: number, connection: Connection): void;
  /** The server said unasked that it has this much (104). */
  acknowledged(offset: number): void;
  /** The request broke before its answer. */
  lost(reason: string): void;
  /** The server was asked what it has (HEAD), and this is its answer. */
  asked(offset: number, tookMs: number): void;
  /** The last byte is on its way. */
  waiting(): void;
}

/** What a saboteur can do to a connection. */
export interface Connection {
  /** Ends it with RST, as a middlebox does. */
  reset(): void;
  /** Says nothing any more but leaves it open: a phone that left the network. */
  fallSilent(): void;
}

export interface Answer {
  readonly status: number;
  readonly reason: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

export interface UploadPlan {
  readonly file: string;
  readonly size: number;
  readonly target: string;
  readonly headers: OutgoingHttpHeaders;
  readonly bytesPerSecond: number;
}

const VERSION = { 'Upload-Draft-Interop-Version': '10' };
const SILENCE_MS = 30_000;
/** The origin gets the whole only now, and may think about it. */
const ANSWER_MS = 10 * 60_000;
const MAX_FAILURES_IN_A_ROW = 100;
/** A real client needs a moment to notice, and a person to read. */
const NOTICE_MS = 400;
const RETRY_MS = 100;

/** The request ended without an answer: it is worth coming back. */
class ConnectionLost extends Error {}

/** A small client of "Resumable Uploads for HTTP": it starts like any upload, and comes back when it was cut. */
export class ResumableUploader {
  private url: string | undefined;
  private readonly left: ClientRequest[] = [];

  constructor(
    private readonly plan: UploadPlan,
    private readonly watcher: Watcher,
  ) {}

  /** Uploads the file, however often the connection breaks, and gives the origin's answer. */
  async upload(): Promise<Answer> {
    try {
      return await this.untilAnswered();
    } finally {
      for (const abandoned of this.left) abandoned.destroy();
    }
  }

  private async untilAnswered(): Promise<Answer> {
    for (let failures = 0; ;) {
      try {
        if (this.url === undefined) return await this.create();
        const offset = await this.retrieveOffset(this.url);
        failures = 0;
        return await this.append(this.url, offset);
      } catch (error) {
        if (!(error instanceof ConnectionLost) || this.url === undefined) throw error;
        if (++failures > MAX_FAILURES_IN_A_ROW) throw error;
        if (failures === 1) this.watcher.lost(error.message);
        await new Promise((resolve) => setTimeout(resolve, failures === 1 ? NOTICE_MS : RETRY_MS));
      }
    }
  }

  /** An ordinary POST, but for three fields: "I can resume, and this is the whole upload". */
  private create(): Promise<Answer> {
    this.watcher.sending('POST', 0);
    const fields = { 'Upload-Complete': '?1', 'Upload-Length': this.plan.size };
    return this.send('POST', this.plan.target, 0, { ...this.plan.headers, ...fields });
  }

  private append(url: string, offset: number): Promise<Answer> {
    this.watcher.sending('PATCH', offset);
    const type = { 'Content-Type': 'application/partial-upload' };
    return this.send('PATCH', url, offset, { 'Upload-Offset': offset, 'Upload-Complete': '?1', ...type });
  }

  private async retrieveOffset(url: string): Promise<number> {
    const askedAt = performance.now();
    const asking = request(url, { method: 'HEAD', headers: VERSION, agent: false, timeout: SILENCE_MS });
    const answering = answerOf(asking);
    asking.end();
    const answer = await answering;
    const offset = Number(answer.headers['upload-offset']);
    if (answer.status !== 204 || !Number.isSafeInteger(offset)) {
      throw new Error(`the proxy does not know the upload any more: HEAD gave ${answer.status}`);
    }
    this.watcher.asked(offset, performance.now() - askedAt);
    return offset;
  }

  /** Sends the file from `offset` on. Fulfilled with the final response, whenever it comes. */
  private async send(method: string, url: string, offset: number, headers: OutgoingHttpHeaders): Promise<Answer> {
    const fields = { ...VERSION, ...headers, 'Content-Length': this.plan.size - offset };
    const sending = request(url, { method, headers: fields, agent: false, timeout: SILENCE_MS });
    sending.on('information', (interim) => this.heed(interim));
    const breaking = new AbortController();
    const answering = answerOf(sending, breaking.signal);
    answering.catch(() => breaking.abort());
    await this.pump(sending, offset, breaking);
    return answering;
  }

  private async pump(sending: ClientRequest, offset: number, breaking: AbortController): Promise<void> {
    const { file, size, bytesPerSecond } = this.plan;
    const pieceSize = Math.max(1, Math.min(256 * 1024, Math.ceil(size / 64)));
    const wait = pace(bytesPerSecond);
    let sent = offset;
    for await (const piece of createReadStream(file, { start: offset, highWaterMark: pieceSize })) {
      await wait((piece as Buffer).length);
      if (isOver(sending, breaking)) return;
      await write(sending, piece as Buffer);
      sent += (piece as Buffer).length;
      this.watcher.sent(sent, this.connectionOf(sending, breaking));
    }
    if (isOver(sending, breaking)) return;
    sending.setTimeout(ANSWER_MS);
    sending.end();
    this.watcher.waiting();
  }

  private heed(interim: { readonly statusCode: number; readonly headers: IncomingMessage['headers'] }): void {
    const { location, 'upload-offset': offset } = interim.headers;
    if (interim.statusCode !== 104) return;
    if (location !== undefined && this.url === undefined) this.watcher.resumable((this.url = location));
    if (offset !== undefined) this.watcher.acknowledged(Number(offset));
  }

  private connectionOf(sending: ClientRequest, breaking: AbortController): Connection {
    return {
      reset: () => {
        sending.socket?.resetAndDestroy();
        breaking.abort('connection reset');
      },
      fallSilent: () => {
        this.left.push(sending);
        breaking.abort('no sign of life');
      },
    };
  }
}

function isOver(sending: ClientRequest, breaking: AbortController): boolean {
  return breaking.signal.aborted || sending.destroyed;
}

/** The final response of a request; fails with `ConnectionLost` when none can come any more. */
function answerOf(sending: ClientRequest, abandoned?: AbortSignal): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const lost = (reason: string): void => reject(new ConnectionLost(reason));
    abandoned?.addEventListener('abort', () => lost(String(abandoned.reason)));
    sending.on('timeout', () => sending.destroy(new Error('nothing heard for too long')));
    sending.on('error', (error) => lost(error.message));
    sending.on('response', (response) => {
      const body: Buffer[] = [];
      response.on('data', (bytes: Buffer) => body.push(bytes));
      response.on('error', (error) => lost(error.message));
      response.on('end', () => {
        const { statusCode = 0, statusMessage = '', headers } = response;
        resolve({ status: statusCode, reason: statusMessage, headers, body: Buffer.concat(body).toString('utf8') });
      });
    });
  });
}

/** Writes, and waits while the network is slower than we are. */
async function write(sending: ClientRequest, bytes: Buffer): Promise<void> {
  if (sending.write(bytes)) return;
  await new Promise<void>((resolve) => {
    const go = (): void => {
      sending.off('drain', go).off('close', go).off('error', go);
      resolve();
    };
    sending.on('drain', go).on('close', go).on('error', go);
  });
}

/** Waits so long that no more than so many bytes a second go through. */
function pace(bytesPerSecond: number): (bytes: number) => Promise<void> {
  let due = performance.now();
  return async (bytes) => {
    const wait = due - performance.now();
    due = Math.max(due, performance.now() - 100) + (bytes / bytesPerSecond) * 1000;
    if (wait > 1) await new Promise((resolve) => setTimeout(resolve, wait));
  };
}
