import { pipeline, Readable, Transform } from 'node:stream';
import { Fault } from '../model/fault.js';
import { isHopField, withForwarding } from '../model/forwarded.js';
import { fieldValue, type Headers } from '../model/headers.js';
import { type Framing, addsFormFields } from '../model/route.js';
import type { Chunk, StoredRequest, Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';

/** The body of the origin's request. */
export interface OriginBody {
  /** Missing when nobody knows yet: it is sent in chunks. */
  readonly size?: number;
  /** Where they are not the upload's as it was when this was made. */
  readonly trailers?: () => Headers;
  /** Missing when there is nothing to send. Ends with exactly `size` bytes, or fails. */
  readonly body?: Readable;
}

/** The body a route wants: the bytes of the upload as they are, or as one file field among others. Never buffered. */
export function frameBody(upload: Upload, wanted: Framing, chunks: readonly Chunk[], spool: Spool): OriginBody {
  const framing = framingFor(upload, wanted);
  const size = chunks.reduce((sum, chunk) => sum + chunk.size, 0);
  if (size !== upload.offset) throw bytesLost(size, upload.offset);
  const read = (): Readable => spool.read(upload.id, chunks);
  if (framing.kind === 'raw') return size === 0 ? { size } : { size, body: sizeChecked(size, read()) };
  const envelope = envelopeOf(upload, framing);
  const whole = envelope.before.length + size + envelope.after.length;
  if (size === 0) return { size: whole, body: Readable.from([Buffer.concat([envelope.before, envelope.after])]) };
  return { size: whole, body: sizeChecked(size, read(), envelope) };
}

/**
 * Lets a stream end only when all of it was there: a shorter body must never look like a whole one. It ends with its last
 * byte and does not wait for the source to close its files: an origin that answers before our end has lost its connection.
 */
function sizeChecked(size: number, source: Readable, envelope?: Envelope): Readable {
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

export type Multipart = Extract<Framing, { kind: 'multipart' }>;

/**
 * How this upload is framed. A form stays as it is, because an origin looks for its file in one form only, but not where the
 * route has fields of its own to say: a client's form could say them instead.
 */
export function framingFor(
  { request }: { readonly request: Pick<StoredRequest, 'headers'> },
  framing: Framing,
): Framing {
  return framing.kind === 'multipart' && isForm(request) && !addsFormFields(framing) ? { kind: 'raw' } : framing;
}

/** What stands around the bytes of the upload in a multipart/form-data body (RFC 7578). */
export interface Envelope {
  readonly before: Buffer;
  readonly after: Buffer;
}

/** The `Content-Type` of the whole body. */
export function multipartType(upload: Pick<Upload, 'deliveryKey'>): string {
  return `multipart/form-data; boundary=${boundaryOf(upload)}`;
}

/** Static fields first, then those from headers, then the file: readers that stream have the fields when the file comes. */
export function envelopeOf(
  upload: Pick<Upload, 'deliveryKey' | 'request' | 'addedHeaders'>,
  framing: Multipart,
): Envelope {
  const boundary = boundaryOf(upload);
  const { request, addedHeaders = [] } = upload;
  const fields = [
    ...framing.fields.map(([name, value]) => textPart(boundary, name, Buffer.from(value, 'utf8'))),
    ...framing.fieldsFromHeaders.flatMap(([name, header]) => {
      // What the authorization service says stands in the place of what the client says.
      const value = fieldValue(addedHeaders, header) ?? headerValue(request, header);
      // Node reads header bytes as Latin-1: this gives the origin the bytes the client sent.
      return value === undefined ? [] : [textPart(boundary, name, Buffer.from(printable(value), 'latin1'))];
    }),
  ];
  return {
    before: Buffer.concat([...fields, fileHead(boundary, framing.field, request)]),
    after: Buffer.from(`\r\n--${boundary}--\r\n`, 'latin1'),
  };
}

/** Of the hops before us the form says what the origin's head says, and not what a client makes up. */
function headerValue(request: StoredRequest, header: string): string | undefined {
  return fieldValue(isHopField(header) ? withForwarding(request.headers, request) : request.headers, header);
}

/** The same in every attempt, and known to nobody who could put it into a file: clients never see the key. */
function boundaryOf({ deliveryKey }: Pick<Upload, 'deliveryKey'>): string {
  return `rufh-${deliveryKey.replace(/[^A-Za-z0-9-]/g, '-')}`.slice(0, 70);
}

function textPart(boundary: string, name: string, value: Buffer): Buffer {
  const head = `--${boundary}\r\nContent-Disposition: form-data; name="${quoted(name)}"\r\n\r\n`;
  return Buffer.concat([Buffer.from(head, 'utf8'), value, Buffer.from('\r\n')]);
}

/** A part without a filename is a text field to most frameworks: a file always has one. */
function fileHead(boundary: string, field: string, request: StoredRequest): Buffer {
  const filename = quoted(filenameOf(request) ?? 'upload');
  const disposition = `Content-Disposition: form-data; name="${quoted(field)}"; filename="${filename}"`;
  const encoding = fieldValue(request.headers, 'content-encoding');
  const type = `Content-Type: ${printable(representationType(request))}`;
  const about = [type, ...(encoding === undefined ? [] : [`Content-Encoding: ${printable(encoding)}`])];
  // Names are text and go as UTF-8; values of fields are the client's octets, which Node reads as Latin-1.
  return Buffer.concat([
    Buffer.from(`--${boundary}\r\n${disposition}\r\n`, 'utf8'),
    Buffer.from(`${about.join('\r\n')}\r\n\r\n`, 'latin1'),
  ]);
}

/** A field's value without the control characters that no form is to see. */
function printable(value: string): string {
  return value.replace(/\t/g, ' ').replace(/[\x00-\x1f\x7f]/g, '');
}

/** As browsers write it (HTML, multipart/form-data encoding algorithm). */
function quoted(text: string): string {
  return text.replace(/\r/g, '%0D').replace(/\n/g, '%0A').replace(/"/g, '%22');
}

/**
 * The name that a creation gives its file, without folders, because the client's file system is not the origin's, and without
 * control characters. `filename*` of its `Content-Disposition` (RFC 6266 §4.3), then `filename`, then `Upload-Metadata`: the
 * first that can be read and names a file. Undefined when there is none.
 */
export function filenameOf({ headers }: Pick<StoredRequest, 'headers'>): string | undefined {
  const parameters = dispositionParameters(fieldValue(headers, 'content-disposition') ?? '');
  const names = [
    decodeExtended(parameters.get('filename*')),
    decodeRaw(parameters.get('filename')),
    uploadMetadata(headers).filename,
  ];
  return names.map(baseName).find((name) => name !== undefined);
}

/** C0, DEL and C1. */
const CONTROLS = /[\x00-\x1f\x7f-\x9f]/g;

function baseName(name: string | undefined): string | undefined {
  const base = name?.replace(CONTROLS, '').split(/[/\\]/).at(-1)?.trim();
  return base === '' || base === '.' || base === '..' ? undefined : base;
}

/** RFC 9110 §5.6.6: name=token or name="quoted string"; of a repeated one the first counts. Some clients leave the type out. */
function dispositionParameters(value: string): Map<string, string> {
  const parameters = new Map<string, string>();
  const pattern = /;\s*([\w!#$%&'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]*))/g;
  const withType = /^\s*[\w*-]+\s*=/.test(value) ? `;${value}` : value;
  for (const [, name, quoted, token] of withType.matchAll(pattern)) {
    const key = name!.toLowerCase();
    if (!parameters.has(key)) parameters.set(key, quoted === undefined ? (token ?? '') : unquoted(quoted));
  }
  return parameters;
}

/** Some clients on Windows send a path with its backslashes as they are; anywhere else a backslash stands before what it quotes. */
function unquoted(text: string): string {
  return /^[A-Za-z]:\\(?!\\)/.test(text) ? text : text.replace(/\\(.)/g, '$1');
}

/** RFC 8187 §3.2: charset'language'percent-encoded. Undefined when it is anything else. */
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

/** Many clients put raw UTF-8 there, which Node reads as Latin-1. */
function decodeRaw(value: string | undefined): string | undefined {
  return value === undefined ? undefined : (decodeUtf8(Buffer.from(value, 'latin1')) ?? value);
}

const UNKNOWN_TYPE = 'application/octet-stream';

/** They say "a piece follows" or "some bytes", which is nothing of the whole. */
const UNINFORMATIVE_TYPES = new Set([
  '',
  'application/partial-upload',
  'application/offset+octet-stream',
  UNKNOWN_TYPE,
]);

/** The media type of the whole representation: the creation's `Content-Type`, or where that says nothing, its `Upload-Metadata`. */
export function representationType({ headers }: Pick<StoredRequest, 'headers'>): string {
  return declaredType({ headers }) ?? UNKNOWN_TYPE;
}

/** The same; undefined when the creation does not say. */
export function declaredType({ headers }: Pick<StoredRequest, 'headers'>): string | undefined {
  const type = fieldValue(headers, 'content-type');
  const told = isUninformativeType(type) ? undefined : type;
  return told ?? uploadMetadata(headers).mediaType;
}

/** Nothing can be told from this `Content-Type` about the whole. */
export function isUninformativeType(contentType: string | undefined): boolean {
  return UNINFORMATIVE_TYPES.has(mediaType(contentType));
}

/** Whether it is a form already. */
function isForm({ headers }: Pick<StoredRequest, 'headers'>): boolean {
  return mediaType(fieldValue(headers, 'content-type')) === 'multipart/form-data';
}

/** Without its parameters, in lower case. */
function mediaType(contentType = ''): string {
  return contentType.split(';', 1)[0]!.trim().toLowerCase();
}

/** What a client's own `Upload-Metadata` says of the file. */
interface UploadMetadata {
  readonly filename?: string;
  readonly mediaType?: string;
}

/** The names that clients give it, the best known first. */
const NAME_KEYS = ['filename', 'name'];
const TYPE_KEYS = ['filetype', 'type', 'contenttype'];

/** RFC 9110 §8.3.1. */
const MEDIA_TYPE =
  /^[!#$%&'*+.^_`|~\w-]+\/[!#$%&'*+.^_`|~\w-]+(?:\s*;\s*[!#$%&'*+.^_`|~\w-]+=(?:[!#$%&'*+.^_`|~\w-]+|"[ !#-[\]-~]*"))*$/;

/**
 * tus 1.0.0, Creation: pairs of a key and its value in Base64, separated by commas. tus-js-client and Uppy send it in the
 * draft's versions too. A pair that cannot be read counts for nothing; of a repeated key the first counts.
 */
function uploadMetadata(headers: Headers): UploadMetadata {
  const pairs = new Map<string, string>();
  for (const pair of (fieldValue(headers, 'upload-metadata') ?? '').split(',')) {
    const [key = '', encoded = '', ...rest] = pair.trim().split(/ +/);
    const value = rest.length === 0 ? decodeBase64(encoded) : undefined;
    if (value !== undefined && !pairs.has(key.toLowerCase())) pairs.set(key.toLowerCase(), value);
  }
  const first = (keys: readonly string[], isUsable: (value: string) => boolean): string | undefined =>
    keys.map((key) => pairs.get(key)).find((value) => value !== undefined && isUsable(value));
  return {
    filename: first(NAME_KEYS, (value) => value !== ''),
    mediaType: first(TYPE_KEYS, (value) => MEDIA_TYPE.test(value)),
  };
}

/** Base64 of UTF-8; undefined when it is not. */
function decodeBase64(encoded: string): string | undefined {
  const [, digits] = /^([A-Za-z0-9+/]+)={0,2}$/.exec(encoded) ?? [];
  if (digits === undefined || digits.length % 4 === 1) return undefined;
  return decodeUtf8(Buffer.from(encoded, 'base64'));
}

/** Undefined when these bytes are no UTF-8. */
function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    // TypeError is all that it throws, and it says just this.
    return undefined;
  }
}
