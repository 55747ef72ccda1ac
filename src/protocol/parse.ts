import { fieldValue } from '../model/headers.js';
import type { AppendIntent, Intent, Refusal } from '../model/messages.js';
import type { RequestHead } from '../model/request-head.js';
import {
  isValue,
  type Read,
  readBoolean,
  readDigests,
  readInteger,
  readWantedDigest,
  valueOf,
} from './structured-fields.js';
import type { Dialect } from './versions.js';

/** Parses a request that `detect` classified as a creation (RUFH §4.2). */
export function parseCreation(dialect: Dialect, head: RequestHead): Intent | Refusal {
  const complete = readCompleteness(dialect, head);
  if (!isValue(complete)) return malformed(`${dialect.completeness.field} has to be ?0 or ?1.`);
  // Every draft forbids Upload-Offset here or leaves it undefined; Apple's servers accept the harmless 0.
  const offset = valueOf(readInteger(head.headers, 'Upload-Offset')) ?? 0;
  if (offset !== 0)
    return malformed('A new upload begins at offset 0: leave Upload-Offset out, or append to an upload.');
  const contentDigests = readDigests(head.headers, 'Content-Digest');
  if ('reason' in contentDigests) return contentDigests;
  const reprDigests = readDigests(head.headers, 'Repr-Digest');
  if ('reason' in reprDigests) return reprDigests;
  const declaredLength = valueOf(readInteger(head.headers, 'Upload-Length'));
  return {
    kind: 'create',
    dialect: dialect.name,
    complete: complete || (dialect.emptyCreationCompletes && declaredLength === 0 && isEmpty(head)),
    declaredLength,
    contentLength: knownContentLength(head),
    appendLimitsApply: dialect.appendLimitsOnCreation,
    contentDigests,
    reprDigests,
    wantedReprDigest: readWantedDigest(head.headers),
  };
}

/** Parses a request to an upload resource (RUFH §4.3 to §4.5). */
export function parseUploadRequest(dialect: Dialect, head: RequestHead, id: string): Intent | Refusal {
  switch (effectiveMethod(dialect, head)) {
    case 'HEAD':
    case 'GET': // the same as HEAD since draft-12 (RUFH §4.3), and harmless in earlier versions
      return parseRetrieval(dialect, head, id);
    case 'PATCH':
      return parseAppend(dialect, head, id);
    case 'DELETE':
      return parseCancellation(dialect, head, id);
    case 'OPTIONS':
      return { kind: 'discover', id };
    default:
      return { reason: 'method-not-allowed', allowed: ['HEAD', 'GET', 'PATCH', 'DELETE', 'OPTIONS'] };
  }
}

/** Reads the field that says whether the upload is complete; dialects differ in its name and in which value means so. */
export function readCompleteness({ completeness }: Dialect, head: RequestHead): Read<boolean> {
  const read = readBoolean(head.headers, completeness.field);
  return isValue(read) ? read === completeness.whenComplete : read;
}

/** The length of the content, if Content-Length has it or there is no content. */
export function knownContentLength(head: RequestHead): number | undefined {
  return head.contentLength ?? (head.hasBody ? undefined : 0);
}

/** The media type without its parameters, in lower case. */
export function mediaType(head: RequestHead): string | undefined {
  return fieldValue(head.headers, 'Content-Type')?.split(';', 1)[0]!.trim().toLowerCase();
}

/** Parses a request for the offset, which must not contain one (RUFH §4.3.1 up to draft-05). Conformance tests still check that. */
function parseRetrieval(dialect: Dialect, head: RequestHead, id: string): Intent | Refusal {
  const forbidden = statedFields(dialect, head, ['Upload-Offset', 'Upload-Length']);
  if (forbidden.length === 0) return { kind: 'retrieve', id };
  return malformed(`A request for the offset must not carry ${forbidden.join(' or ')}.`);
}

function parseCancellation(dialect: Dialect, head: RequestHead, id: string): Intent | Refusal {
  const forbidden = dialect.strictCancel ? statedFields(dialect, head, ['Upload-Offset']) : [];
  if (forbidden.length === 0) return { kind: 'cancel', id };
  return malformed(`A cancellation must not carry ${forbidden.join(' or ')}.`);
}

/** Parses an append (RUFH §4.4). */
function parseAppend(dialect: Dialect, head: RequestHead, id: string): AppendIntent | Refusal {
  if (dialect.appendType && mediaType(head) !== dialect.appendType) {
    return { reason: 'unsupported-media-type', expected: dialect.appendType };
  }
  const offset = readInteger(head.headers, 'Upload-Offset');
  if (!isValue(offset)) return malformed('Upload-Offset has to say, as an Integer, where the content belongs.');
  const complete = readAppendCompleteness(dialect, head);
  if (typeof complete !== 'boolean') return complete;
  const contentDigests = readDigests(head.headers, 'Content-Digest');
  if ('reason' in contentDigests) return contentDigests;
  const reprDigests = readDigests(head.headers, 'Repr-Digest');
  if ('reason' in reprDigests) return reprDigests;
  return {
    kind: 'append',
    id,
    offset,
    complete,
    declaredLength: valueOf(readInteger(head.headers, 'Upload-Length')),
    contentLength: knownContentLength(head),
    contentDigests,
    reprDigests,
  };
}

/**
 * A missing field means "complete" in early drafts; an invalid one never does, because it could complete by accident.
 */
function readAppendCompleteness(dialect: Dialect, head: RequestHead): boolean | Refusal {
  const complete = readCompleteness(dialect, head);
  if (complete === 'absent' && dialect.appendWithoutCompleteness === 'completes') return true;
  if (isValue(complete)) return complete;
  return malformed(`${dialect.completeness.field} has to say, as ?0 or ?1, whether this is the end.`);
}

/** Names of these fields, and of the completeness field, that have a valid value; invalid ones count as absent. */
function statedFields(dialect: Dialect, head: RequestHead, integers: readonly string[]): string[] {
  const stated = integers.filter((name) => isValue(readInteger(head.headers, name)));
  return isValue(readCompleteness(dialect, head)) ? [...stated, dialect.completeness.field] : stated;
}

/** The method, or the one that overrides POST. tus-js-client (`overridePatchMethod`) does so where firewalls block other methods. */
function effectiveMethod({ methodOverride }: Dialect, { method, headers }: RequestHead): string {
  const override = methodOverride && method === 'POST' ? fieldValue(headers, 'X-HTTP-Method-Override') : undefined;
  return override === 'PATCH' || override === 'DELETE' || override === 'HEAD' ? override : method;
}

function isEmpty(head: RequestHead): boolean {
  return knownContentLength(head) === 0;
}

function malformed(detail: string): Refusal {
  return { reason: 'malformed', detail };
}
