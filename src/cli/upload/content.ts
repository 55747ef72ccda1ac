import type { FileHandle } from 'node:fs/promises';
import { open } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import type { Piece, Source } from '../../client/transport.js';

/** A piece that is read block by block while it is sent. */
export interface ReadablePiece extends Piece {
  /** Fills the beginning of `into` with the bytes at this position of the piece; resolves with their number, 1 or more. */
  read(into: Buffer, position: number): Promise<number>;
}

/** The content of an upload. */
export interface Content extends Source<ReadablePiece> {
  close(): Promise<void>;
}

/** A file was changed while it was being sent, so the bytes at the server are not those of one version. */
export class FileChanged extends Error {}

/** A regular file. Its size and time of modification must stay the same while it is sent. */
export class FileContent implements Content {
  private constructor(
    private readonly file: FileHandle,
    private readonly path: string,
    readonly size: number,
    readonly modifiedMs: number,
  ) {}

  /** Undefined for a pipe or a device. Rejects if the file cannot be read. */
  static async open(path: string): Promise<FileContent | undefined> {
    const file = await open(path, 'r');
    const stat = await file.stat();
    if (stat.isFile()) return new FileContent(file, path, stat.size, stat.mtimeMs);
    await file.close();
    if (stat.isDirectory()) throw new Error('it is a directory');
    return undefined;
  }

  async slice(start: number, end: number): Promise<ReadablePiece> {
    await this.assertUnchanged();
    const size = Math.max(Math.min(end, this.size) - start, 0);
    return { size, read: (into, position) => this.read(into, start + position) };
  }

  async close(): Promise<void> {
    await this.file.close();
  }

  private async read(into: Buffer, position: number): Promise<number> {
    const { bytesRead } = await this.file.read(into, 0, into.length, position);
    // The last block completes the upload, so a change has to be noticed before it is sent.
    if (bytesRead === 0 || position + bytesRead === this.size) await this.assertUnchanged(bytesRead === 0);
    return bytesRead;
  }

  private async assertUnchanged(isShort = false): Promise<void> {
    const { size, mtimeMs } = await this.file.stat();
    if (isShort || size !== this.size || mtimeMs !== this.modifiedMs)
      throw new FileChanged(`${this.path} was changed while it was being sent`);
  }
}

/** A stream of unknown length. It keeps the bytes that the server does not have yet, so that a cut append can be repeated. */
export class StreamContent implements Content {
  size: number | undefined;
  private kept: Buffer = Buffer.alloc(0);
  private keptFrom = 0;
  private readonly chunks: AsyncIterator<Buffer, undefined>;

  constructor(private readonly stream: Readable) {
    this.chunks = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer, undefined>;
  }

  async slice(start: number, end: number): Promise<ReadablePiece> {
    if (start < this.keptFrom) throw new Error('the server asks for bytes that it had before');
    const pieces = [this.kept.subarray(start - this.keptFrom)];
    let until = this.keptFrom + this.kept.length;
    while (this.size === undefined && until < end) {
      const { value } = await this.chunks.next();
      if (value === undefined) this.size = until;
      else {
        pieces.push(value);
        until += value.length;
      }
    }
    this.kept = Buffer.concat(pieces);
    this.keptFrom = start;
    return bufferPiece(this.kept.subarray(0, end - start));
  }

  close(): Promise<void> {
    this.stream.destroy();
    return Promise.resolve();
  }
}

/** The content as the file of a form with one field (RFC 7578). */
export class FormContent implements Content {
  private readonly head: Buffer;
  private readonly tail: Buffer;

  constructor(
    private readonly file: Content,
    { field, fileName, type, boundary }: FormPart,
  ) {
    const disposition = `form-data; name="${quoted(field)}"; filename="${quoted(fileName)}"`;
    this.head = Buffer.from(
      `--${boundary}\r\nContent-Disposition: ${disposition}\r\nContent-Type: ${type}\r\n\r\n`,
      'utf8',
    );
    this.tail = Buffer.from(`\r\n--${boundary}--\r\n`);
  }

  get size(): number | undefined {
    const { file, head, tail } = this;
    return file.size === undefined ? undefined : head.length + file.size + tail.length;
  }

  async slice(start: number, end: number): Promise<ReadablePiece> {
    const { file, head, tail } = this;
    const fromFile = await file.slice(Math.max(start - head.length, 0), Math.max(end - head.length, 0));
    const beforeTail = head.length + (file.size ?? Infinity);
    return joined([
      bufferPiece(head.subarray(start, end)),
      fromFile,
      bufferPiece(tail.subarray(Math.max(start - beforeTail, 0), Math.max(end - beforeTail, 0))),
    ]);
  }

  close(): Promise<void> {
    return this.file.close();
  }
}

/** The part of a form that is the file. */
interface FormPart {
  readonly field: string;
  readonly fileName: string;
  readonly type: string;
  readonly boundary: string;
}

/** Browsers escape names of form fields like this (HTML §4.10.21.8). */
function quoted(name: string): string {
  return name.replaceAll('\r', '%0D').replaceAll('\n', '%0A').replaceAll('"', '%22');
}

function bufferPiece(bytes: Buffer): ReadablePiece {
  return {
    size: bytes.length,
    read: (into, position) => Promise.resolve(bytes.copy(into, 0, position)),
  };
}

function joined(pieces: readonly ReadablePiece[]): ReadablePiece {
  return {
    size: pieces.reduce((sum, { size }) => sum + size, 0),
    read: (into, position) => {
      let at = position;
      for (const piece of pieces) {
        if (at < piece.size) return piece.read(into.subarray(0, piece.size - at), at);
        at -= piece.size;
      }
      return Promise.resolve(0);
    },
  };
}
