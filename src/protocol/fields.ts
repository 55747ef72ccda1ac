import { ParseError, parseDictionary, parseItem } from 'structured-headers';
import { fieldValue, type Headers } from '../model/headers.js';

/**
 * What a structured field says (RFC 9651). A field that does not parse, or has a value of another type, counts as absent
 * in most places, but not everywhere: an append whose completeness is garbage must not be taken for one without any.
 */
export type Read<T> = T | 'absent' | 'invalid';

/** A non-negative Integer: `Upload-Offset`, `Upload-Length` (RUFH §4.1), `Upload-Draft-Interop-Version`. */
export function readInteger(headers: Headers, name: string): Read<number> {
  const text = fieldValue(headers, name);
  if (text === undefined) return 'absent';
  const value = bareItem(text);
  // The Decimal `5.0` is another type, but the parser gives it as the number 5; and it gives `-0` as it stands.
  if (typeof value !== 'number' || value < 0 || /^ *-?\d+\./.test(text)) return 'invalid';
  return Math.abs(value);
}

/** A Boolean: `Upload-Complete`, `Upload-Incomplete` (RUFH §4.1.2). */
export function readBoolean(headers: Headers, name: string): Read<boolean> {
  const text = fieldValue(headers, name);
  if (text === undefined) return 'absent';
  const value = bareItem(text);
  return typeof value === 'boolean' ? value : 'invalid';
}

/** A Dictionary, its members' values without their parameters. */
export function readDictionary(headers: Headers, name: string): Read<ReadonlyMap<string, unknown>> {
  const text = fieldValue(headers, name);
  if (text === undefined) return 'absent';
  const dictionary = parsed(() => parseDictionary(understandable(text)));
  if (!dictionary) return 'invalid';
  return new Map([...dictionary].map(([key, [value]]) => [key, value]));
}

/** True when a valid value was sent; what is invalid is as if it had not been sent (RFC 9651 §4.2). */
export function isValue<T>(read: Read<T>): read is Exclude<T, 'absent' | 'invalid'> {
  return read !== 'absent' && read !== 'invalid';
}

/** The value, or undefined where the field is absent or to be ignored. */
export function valueOf<T>(read: Read<T>): Exclude<T, 'absent' | 'invalid'> | undefined {
  return isValue(read) ? read : undefined;
}

function bareItem(text: string): unknown {
  return parsed(() => parseItem(understandable(text)))?.[0];
}

/**
 * Two things the parser gets wrong behind a `=`: it fails on a Date that is not the very end of the field, and it does
 * not tell a Decimal from an Integer. No parameter and no member of either type means anything here, so each becomes a
 * Boolean: still legal, still ignored.
 */
function understandable(text: string): string {
  return text.replace(/=(?:@-?\d{1,15}|-?\d{1,12}\.\d{1,3})(?![\d.])/g, '=?0');
}

function parsed<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (error instanceof ParseError) return undefined;
    throw error;
  }
}
