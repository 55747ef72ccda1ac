import { pipeline, Readable, Transform } from 'node:stream';
import { Fault } from '../model/fault.js';
import type { Headers } from '../model/headers.js';
import type { Framing } from '../model/route.js';
import type { Chunk, Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import { type Envelope, envelopeOf, framingFor } from './multipart.js';

/** The body of the origin's request. */
export interface Framed {
  /** Missing when nobody knows yet: it is sent in chunks. */
  readonly size?: number;
  /** Where they are not the upload's as it was when this was made. */
  readonly trailers?: () => Headers;
  /** Missing when there is nothing to send. Ends with exactly `size` bytes, or fails. */
  readonly body?: Readable;
}

/** The body a route wants: the bytes of the upload as they are, or as one file field among others. Never buffered. */
export function framed(upload: Upload, wanted: Framing, chunks: readonly Chunk[], spool: Spool): Framed {
  const framing = framingFor(upload, wanted);
  const size = chunks.reduce((sum, chunk) => sum + chunk.size, 0);
  if (size !== upload.offset) throw bytesLost(size, upload.offset);
  const read = (): Readable => spool.read(upload.id, chunks);
  if (framing.kind === 'raw') return size === 0 ? { size } : { size, body: exactly(size, read()) };
  const envelope = envelopeOf(upload, framing);
  const whole = envelope.before.length + size + envelope.after.length;
  if (size === 0) return { size: whole, body: Readable.from([Buffer.concat([envelope.before, envelope.after])]) };
  return { size: whole, body: exactly(size, read(), envelope) };
}

/**
 * Lets a stream end only when all of it was there: a shorter body must never look like a whole one. It ends with its last
 * byte and does not wait for the source to close its files: an origin that answers before our end has lost its connection.
 */
function exactly(size: number, source: Readable, envelope?: Envelope): Readable {
  let passed = 0;
  const counted = new Transform({
    transform(piece: Uint8Array, _encoding, done) {
      passed += piece.length;
      if (passed <= size) this.push(piece);
      if (passed === size && envelope) this.push(envelope.after);
      if (passed === size) this.push(null);
      done(passed > size ? bytesLost(passed, size) : null);
    },
    flush: (done) => done(passed === size ? null : bytesLost(passed, size)),
  });
  if (envelope) counted.push(envelope.before);
  // Whoever reads `counted` gets its error; here only the two are tied together.
  pipeline(source, counted, () => undefined);
  return counted;
}

function bytesLost(found: number, expected: number): Fault {
  return new Fault('BYTES_LOST', `the spool has ${found} of ${expected} bytes`, false);
}
