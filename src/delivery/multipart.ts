import { tellsOfHops, withForwarding } from '../model/forwarding.js';
import { fieldValue } from '../model/headers.js';
import { saysFields, type Framing } from '../model/route.js';
import type { StoredRequest, Upload } from '../model/upload.js';
import { filenameOf } from './filename.js';
import { isForm, wholeType } from './whole-type.js';

export type Multipart = Extract<Framing, { kind: 'multipart' }>;

/**
 * How this upload is framed. A form stays as it is, because an origin looks for its file in one form only, but not where the
 * route has fields of its own to say: a client's form could say them instead.
 */
export function framingFor(
  { request }: { readonly request: Pick<StoredRequest, 'headers'> },
  framing: Framing,
): Framing {
  return framing.kind === 'multipart' && isForm(request) && !saysFields(framing) ? { kind: 'raw' } : framing;
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
      const value = fieldValue(addedHeaders, header) ?? valueAt(request, header);
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
function valueAt(request: StoredRequest, header: string): string | undefined {
  return fieldValue(tellsOfHops(header) ? withForwarding(request.headers, request) : request.headers, header);
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
  const type = `Content-Type: ${printable(wholeType(request))}`;
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
