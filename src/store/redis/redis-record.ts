import { Fault } from '../../model/fault.js';
import type { Answer, Attempt, Chunk, Phase, Undelivered, Upload } from '../../model/upload.js';
import type { NewUpload } from '../upload-store.js';
import type { ServerClock } from './server-clock.js';

/** What never changes in an upload: one field, read by us alone. */
type About = Omit<NewUpload, 'node' | 'length' | 'reprDigests' | 'expiresAt'>;

const ATTEMPT = 'attempt:';

export function aboutText(upload: NewUpload): string {
  const elsewhere: Record<keyof Omit<NewUpload, keyof About>, undefined> = {
    node: undefined,
    length: undefined,
    reprDigests: undefined,
    expiresAt: undefined,
  };
  return JSON.stringify({ ...upload, ...elsewhere });
}

/** Nothing rather than an empty list, which the first that is not empty replaces. */
export function digestsText(digests: Upload['reprDigests'] | undefined): string {
  return digests && digests.length > 0 ? JSON.stringify(digests) : '';
}

/** The flag is what the scripts have to know of an attempt. */
export function attemptText(attempt: Attempt): string {
  const isOpenInPart = attempt.inPart === true && attempt.reached === undefined;
  return `${isOpenInPart ? 'i' : 'o'}${JSON.stringify(attempt)}`;
}

/**
 * The upload as its record's fields say it; the list has names and values in turn. When it ends is said on our clock: whoever
 * said it first may have another time.
 */
export function uploadOf(list: readonly string[], clock: Pick<ServerClock, 'expiresAt'>): Upload {
  const fields = new Map<string, string>();
  for (let at = 0; at < list.length; at += 2) fields.set(list[at]!, list[at + 1]!);
  const about = fields.get('about');
  if (about === undefined) throw new Fault('RECORD_DAMAGED', 'the record of an upload in Redis is damaged', false);
  return {
    ...(JSON.parse(about) as About),
    ...optional('node', fields.get('node') || undefined),
    phase: fields.get('phase') as Phase,
    offset: Number(fields.get('offset')),
    ...optional('length', numberOf(fields.get('length'))),
    reprDigests: (parsed(fields.get('digests')) as Upload['reprDigests'] | undefined) ?? [],
    ...optional('lost', fields.has('lost') ? (true as const) : undefined),
    ...optional('heldBack', parsed(fields.get('heldBack')) as Upload['heldBack'] | undefined),
    ...optional('trailers', parsed(fields.get('trailers')) as Upload['trailers'] | undefined),
    ...optional('dueAt', numberOf(fields.get('dueAt'))),
    ...optional('undelivered', parsed(fields.get('undelivered')) as Undelivered | undefined),
    ...optional('answer', parsed(fields.get('answer')) as Answer | undefined),
    attempts: attemptsOf(fields),
    attemptCount: Number(fields.get('attemptCount')),
    expiresAt: clock.expiresAt(fields.get('endsAt') ?? ''),
  };
}

/** As the scripts keep it: start, size, name and, where there is one, the checksum. */
export function chunkOf(text: string): Chunk {
  const [start, size, name, crc] = text.split(' ');
  return { name: name!, start: Number(start), size: Number(size), ...optional('crc', numberOf(crc)) };
}

function attemptsOf(fields: ReadonlyMap<string, string>): Attempt[] {
  const attempts: Attempt[] = [];
  for (const [name, text] of fields) if (name.startsWith(ATTEMPT)) attempts.push(JSON.parse(text.slice(1)) as Attempt);
  return attempts.sort((one, other) => one.number - other.number);
}

function optional<K extends string, V>(name: K, value: V | undefined): { readonly [name in K]?: V } {
  return value === undefined ? {} : ({ [name]: value } as { [name in K]: V });
}

function numberOf(text: string | undefined): number | undefined {
  return text === undefined ? undefined : Number(text);
}

function parsed(text: string | undefined): unknown {
  return text === undefined ? undefined : JSON.parse(text);
}
