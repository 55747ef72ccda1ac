import { pipeline, Readable, Transform } from 'node:stream';
import { Fault } from '../model/fault.js';
import { isHopField, withForwarding } from '../model/forwarded.js';
import { fieldValue, type Headers } from '../model/headers.js';
import { type Framing, addsFormFields } from '../model/route.js';
import type { Chunk, StoredRequest, Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import { decodeUtf8, UploadMetadata } from './upload-metadata.js';

/** The body of the origin's request. */
export interface OriginBody {
  /** In bytes; missing if it is not known yet, and the body is chunked. */
  readonly size?: number;
  /** The trailers, which may be known only at the end of the body. If missing, those of the upload are sent. */
  readonly trailers?: () => Headers;
  /** Missing if there is nothing to send. Ends with exactly `size` bytes, or fails. Its buffers belong to the sender. */
  readonly body?: Readable;
}

/**
 * The body that a route wants: the bytes of the upload alone, or as a file field of a form. It is never buffered. Throws
 * `BYTES_LOST` if the chunks do not add up to the upload.
 */
export function frameBody(upload: Upload, routeFraming: Framing, chunks: readonly Chunk[], spool: Spool): OriginBody {
  const framing = framingFor(upload, routeFraming);
  const size = chunks.reduce((sum, chunk) => sum + chunk.size, 0);
  if (size !== upload.offset) throw bytesLost(size, upload.offset);
  const read = (): Readable => spool.read(upload.id, chunks);
  if (framing.kind === 'raw') return size === 0 ? { size } : { size, body: sizeChecked(size, read()) };
  const envelope = envelopeOf(upload, framing);
  const framedSize = envelope.before.length + size + envelope.after.length;
  if (size === 0) return { size: framedSize, body: Readable.from([Buffer.concat([envelope.before, envelope.after])]) };
  return { size: framedSize, body: sizeChecked(size, read(), envelope) };
}

/**
 * Passes a stream on and fails if it is not exactly `size` bytes long, so that a short body never looks complete. It ends
 * with the last byte and does not wait for the source to close: an answer that arrives before this end costs the connection.
 */
function sizeChecked(size: number, source: Readable, envelope?: Envelope): Readable {
  let passedBytes = 0;
  const counted = new Transform({
    transform(piece: Uint8Array, _encoding, done) {
      passedBytes += piece.length;
      if (passedBytes <= size) this.push(piece);
      if (passedBytes === size && envelope) this.push(envelope.after);
      if (passedBytes === size) this.push(null);
      done(passedBytes > size ? bytesLost(passedBytes, size) : null);
    },
    flush: (done) => done(passedBytes === size ? null : bytesLost(passedBytes, size)),
  });
  if (envelope) counted.push(envelope.before);
  // The reader of `counted` gets errors; `pipeline` only connects the two streams.
  pipeline(source, counted, () => undefined);
  return counted;
}

function bytesLost(found: number, expected: number): Fault {
  return new Fault('BYTES_LOST', `the spool has ${found} of ${expected} bytes`, false);
}

/** A framing as a form. */
export type Multipart = Extract<Framing, { kind: 'multipart' }>;

/**
 * The framing of this upload. A client's form is not wrapped in another form, unless the route adds fields, which the client's
 * form could otherwise set.
 */
export function framingFor(
  { request }: { readonly request: Pick<StoredRequest, 'headers'> },
  framing: Framing,
): Framing {
  return framing.kind === 'multipart' && isForm(request) && !addsFormFields(framing) ? { kind: 'raw' } : framing;
}

/** The parts of a multipart/form-data body before and after the upload's bytes (RFC 7578). */
export interface Envelope {
  readonly before: Buffer;
  readonly after: Buffer;
}

/** The `Content-Type` of the multipart body. */
export function multipartType(upload: Pick<Upload, 'deliveryKey'>): string {
  return `multipart/form-data; boundary=${boundaryOf(upload)}`;
}

/** The envelope of an upload: fixed fields, those from headers and metadata, then the file, which streaming readers get last. */
export function envelopeOf(
  upload: Pick<Upload, 'deliveryKey' | 'request' | 'addedHeaders'>,
  framing: Multipart,
): Envelope {
  const boundary = boundaryOf(upload);
  const { request, addedHeaders = [] } = upload;
  const metadata = new UploadMetadata(request);
  const fields = [
    ...framing.fields.map(([name, value]) => textPart(boundary, name, Buffer.from(value, 'utf8'))),
    ...framing.fieldsFromHeaders.flatMap(([name, header]) => {
      // A header of the authorization service takes precedence over the client's.
      const value = fieldValue(addedHeaders, header) ?? headerValue(request, header);
      // Node decodes headers as Latin-1; encoding the value the same way restores the client's bytes.
      return value === undefined ? [] : [textPart(boundary, name, Buffer.from(printable(value), 'latin1'))];
    }),
    ...framing.fieldsFromMetadata.flatMap(([name, key]) => {
      const value = metadata.text(key);
      return value === undefined ? [] : [textPart(boundary, name, Buffer.from(printableLines(value), 'utf8'))];
    }),
  ];
  return {
    before: Buffer.concat([...fields, fileHead(boundary, framing.field, request)]),
    after: Buffer.from(`\r\n--${boundary}--\r\n`, 'latin1'),
  };
}

/** Forwarding fields have the same values as in the head of the origin's request, not those that a client made up. */
function headerValue(request: StoredRequest, header: string): string | undefined {
  return fieldValue(isHopField(header) ? withForwarding(request.headers, request) : request.headers, header);
}

/** The boundary, which is the same in every attempt. Clients never see the delivery key, so they cannot put it into a file. */
function boundaryOf({ deliveryKey }: Pick<Upload, 'deliveryKey'>): string {
  return `rufh-${deliveryKey.replace(/[^A-Za-z0-9-]/g, '-')}`.slice(0, 70);
}

function textPart(boundary: string, name: string, value: Buffer): Buffer {
  const head = `--${boundary}\r\nContent-Disposition: form-data; name="${quoted(name)}"\r\n\r\n`;
  return Buffer.concat([Buffer.from(head, 'utf8'), value, Buffer.from('\r\n')]);
}

/** The head of the file part. It always has a filename, because most frameworks regard a part without one as a text field. */
function fileHead(boundary: string, field: string, request: StoredRequest): Buffer {
  const filename = quoted(filenameOf(request) ?? 'upload');
  const disposition = `Content-Disposition: form-data; name="${quoted(field)}"; filename="${filename}"`;
  const encoding = fieldValue(request.headers, 'content-encoding');
  const type = `Content-Type: ${printable(representationType(request))}`;
  const lines = [type, ...(encoding === undefined ? [] : [`Content-Encoding: ${printable(encoding)}`])];
  // Names are text and are sent as UTF-8; header values are the client's octets, which Node decodes as Latin-1.
  return Buffer.concat([
    Buffer.from(`--${boundary}\r\n${disposition}\r\n`, 'utf8'),
    Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'),
  ]);
}

/** A header value without control characters. */
function printable(value: string): string {
  return value.replace(/\t/g, ' ').replace(/[\x00-\x1f\x7f]/g, '');
}

/** Text without control characters other than tabs and line breaks, which become CRLF as in a form of a browser. */
function printableLines(text: string): string {
  return text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]/g, '').replace(/\r\n?|\n/g, '\r\n');
}

/** Escapes a name as browsers do (HTML, multipart/form-data encoding algorithm). */
function quoted(text: string): string {
  return text.replace(/\r/g, '%0D').replace(/\n/g, '%0A').replace(/"/g, '%22');
}

/**
 * The filename of a creation, without folders and control characters; undefined if there is none. The first valid one counts:
 * `filename*` of its `Content-Disposition` (RFC 6266 §4.3), `filename`, `Upload-Metadata`.
 */
export function filenameOf({ headers }: Pick<StoredRequest, 'headers'>): string | undefined {
  const parameters = dispositionParameters(fieldValue(headers, 'content-disposition') ?? '');
  const names = [
    decodeExtended(parameters.get('filename*')),
    decodeRaw(parameters.get('filename')),
    new UploadMetadata({ headers }).first(NAME_KEYS, (value) => value !== ''),
  ];
  return names.map(baseName).find((name) => name !== undefined);
}

/** C0, DEL and C1 control characters. */
export const CONTROLS = /[\x00-\x1f\x7f-\x9f]/g;

function baseName(name: string | undefined): string | undefined {
  const base = name?.replace(CONTROLS, '').split(/[/\\]/).at(-1)?.trim();
  return base === '' || base === '.' || base === '..' ? undefined : base;
}

/**
 * Parses `name=token` and `name="quoted string"` (RFC 9110 §5.6.6). The first of repeated names counts; some clients omit
 * the disposition type before them.
 */
function dispositionParameters(value: string): Map<string, string> {
  const parameters = new Map<string, string>();
  const pattern = /;\s*([\w!#$%&'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]*))/g;
  const withDisposition = /^\s*[\w*-]+\s*=/.test(value) ? `;${value}` : value;
  for (const [, name, quoted, token] of withDisposition.matchAll(pattern)) {
    const key = name!.toLowerCase();
    if (!parameters.has(key)) parameters.set(key, quoted === undefined ? (token ?? '') : unquoted(quoted));
  }
  return parameters;
}

/** Removes backslash escapes, except from a Windows path, whose backslashes some clients send without escaping. */
function unquoted(text: string): string {
  return /^[A-Za-z]:\\(?!\\)/.test(text) ? text : text.replace(/\\(.)/g, '$1');
}

/** Decodes charset'language'percent-encoded (RFC 8187 §3.2); undefined if the value has another form. */
function decodeExtended(value: string | undefined): string | undefined {
  const [, charset, encoded] =
    /^([\w-]+)'[\w-]*'((?:[^%\x00-\x1f\x7f-\xff]|%[0-9A-Fa-f]{2})*)$/.exec(value ?? '') ?? [];
  if (charset === undefined || encoded === undefined) return undefined;
  const bytes = Buffer.from(
    encoded.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16))),
    'latin1',
  );
  const lower = charset.toLowerCase();
  if (lower === 'utf-8') return decodeUtf8(bytes);
  return lower === 'iso-8859-1' ? bytes.toString('latin1') : undefined;
}

/** Decodes raw UTF-8, which many clients send and Node decodes as Latin-1. */
function decodeRaw(value: string | undefined): string | undefined {
  return value === undefined ? undefined : (decodeUtf8(Buffer.from(value, 'latin1')) ?? value);
}

const UNKNOWN_TYPE = 'application/octet-stream';

/** Types that mean "a part of an upload" or "some bytes" and do not describe the representation. */
const UNINFORMATIVE_TYPES = new Set([
  '',
  'application/partial-upload',
  'application/offset+octet-stream',
  UNKNOWN_TYPE,
]);

/** The media type of the representation: that of `declaredType`, or `application/octet-stream`. */
export function representationType({ headers }: Pick<StoredRequest, 'headers'>): string {
  return declaredType({ headers }) ?? UNKNOWN_TYPE;
}

/** The media type in the creation's `Content-Type`, or else in its `Upload-Metadata`; undefined if neither tells it. */
export function declaredType({ headers }: Pick<StoredRequest, 'headers'>): string | undefined {
  const type = fieldValue(headers, 'content-type');
  if (!isUninformativeType(type)) return type;
  return new UploadMetadata({ headers }).first(TYPE_KEYS, (value) => MEDIA_TYPE.test(value));
}

/** Whether the `Content-Type` does not describe the representation. */
export function isUninformativeType(contentType: string | undefined): boolean {
  return UNINFORMATIVE_TYPES.has(mediaType(contentType));
}

function isForm({ headers }: Pick<StoredRequest, 'headers'>): boolean {
  return mediaType(fieldValue(headers, 'content-type')) === 'multipart/form-data';
}

/** The media type without its parameters, in lower case. */
function mediaType(contentType = ''): string {
  return contentType.split(';', 1)[0]!.trim().toLowerCase();
}

/** Metadata keys that clients use, the most common first. */
const NAME_KEYS = ['filename', 'name'];
const TYPE_KEYS = ['filetype', 'type', 'contenttype'];

/** A media type with parameters (RFC 9110 §8.3.1). */
const MEDIA_TYPE =
  /^[!#$%&'*+.^_`|~\w-]+\/[!#$%&'*+.^_`|~\w-]+(?:\s*;\s*[!#$%&'*+.^_`|~\w-]+=(?:[!#$%&'*+.^_`|~\w-]+|"[ !#-[\]-~]*"))*$/;
