import { connect, type RawClient, requestOnce } from './client.js';
import { appendLines, clientDialect, createUpload, progressOf, ResumableUpload } from './resumable-client.js';
import { until } from './temporary.js';
import { isCut, type WireResponse } from './wire.js';

export interface PausedWriterOptions {
  readonly name: string;
  readonly bytes: Buffer;
  /** The node that the upload is created at, and the one that its first append goes to. */
  readonly createdAt: string;
  readonly writesAt: string;
}

const DIALECT = clientDialect('10');
const FIRST_PART = 200_000;

/** A client with an append under way at a node that stops, who goes on with its upload elsewhere. */
export class PausedWriter {
  /** The largest offset that any node has shown. */
  shown = 0;
  private sent = 0;
  private isAnswered = false;
  private ended = false;

  private constructor(
    private readonly options: PausedWriterOptions,
    private readonly target: string,
    private readonly client: RawClient,
  ) {}

  /** Its append is under way, and some of it is committed. */
  static async open(options: PausedWriterOptions): Promise<PausedWriter> {
    const send = (request: Parameters<typeof requestOnce>[1]) => requestOnce(options.createdAt, request);
    const { target } = await createUpload(DIALECT, send, { method: 'POST', target: `/${options.name}` });
    const client = await connect(options.writesAt, { deadlineMs: 60_000 });
    const writer = new PausedWriter(options, target, client);
    const length = ['Content-Length', `${options.bytes.length}`] as const;
    await client.sendHead('PATCH', target, [...appendLines(DIALECT, { offset: 0, complete: true }), length]);
    void writer.listen();
    await writer.sendUnread(FIRST_PART);
    await until(() => writer.shown > 0, `an offset of ${options.name}`);
    return writer;
  }

  /** So many bytes more, which nobody may ever read. */
  sendUnread(size: number): Promise<void> {
    return this.write(Math.min(this.sent + size, this.options.bytes.length));
  }

  /** The rest of the body, if anybody still wants it. */
  sendRest(): Promise<void> {
    return this.write(this.options.bytes.length);
  }

  /** Another append to the node that does not answer now, beginning at that offset. */
  async requestUnread(offset: number) {
    const client = await connect(this.options.writesAt, { deadlineMs: 60_000 });
    const body = this.options.bytes.subarray(offset);
    const headers = appendLines(DIALECT, { offset, complete: true });
    await client.sendHead('PATCH', this.target, [...headers, ['Content-Length', `${body.length}`]]);
    return {
      answer: async () => {
        const response = await client.readFinal();
        client.destroy();
        return { status: response.status, offset: progressOf(DIALECT, response).offset };
      },
    };
  }

  retrieveAt(url: string): Promise<WireResponse> {
    return this.at(url).retrieve();
  }

  offsetAt(url: string): Promise<number> {
    return this.at(url).offset();
  }

  finishAt(url: string): Promise<WireResponse> {
    return this.at(url).finish(this.options.bytes);
  }

  /** Appends up to there, with more to come. */
  async appendAt(url: string, end: number): Promise<void> {
    const offset = await this.offsetAt(url);
    const response = await this.at(url).append(this.options.bytes.subarray(offset, end), { offset, complete: false });
    if (response.status !== DIALECT.appendedStatus) throw new Error(`an append got ${response.statusLine}`);
  }

  /** As a client does that lost the answer. */
  repeatEndAt(url: string): Promise<WireResponse> {
    const offset = this.options.bytes.length - 1;
    return this.at(url).append(this.options.bytes.subarray(offset), { offset, complete: true });
  }

  cancelAt(url: string): Promise<WireResponse> {
    return this.at(url).cancel();
  }

  /** Whether its first append ended without any answer. */
  async isGivenUp(): Promise<boolean> {
    await until(() => this.ended, `the append of ${this.options.name} to end`);
    return !this.isAnswered;
  }

  private at(url: string): ResumableUpload {
    return new ResumableUpload(DIALECT, (request) => requestOnce(url, request), `${url}${this.target}`);
  }

  /** Does not wait for anybody to take them: a node that is paused takes none. */
  private write(end: number): Promise<void> {
    if (!this.client.socket.destroyed) this.client.socket.write(this.options.bytes.subarray(this.sent, end));
    this.sent = end;
    return Promise.resolve();
  }

  private async listen(): Promise<void> {
    try {
      for (;;) {
        const head = await this.client.readHead();
        if (!head) return;
        this.shown = Math.max(this.shown, progressOf(DIALECT, head).offset ?? 0);
        if (head.status >= 200) this.isAnswered = true;
      }
    } catch (error) {
      if (!isCut(error)) throw error;
    } finally {
      this.ended = true;
      this.client.destroy();
    }
  }
}
