import { fieldValue } from '../model/headers.js';
import type { StoredRequest } from '../model/upload.js';

/**
 * The filename of a creation's `Content-Disposition` (RFC 6266 §4.3), `filename*` before `filename`, without folders: the
 * client's file system is not the origin's. Undefined when there is none.
 */
export function filenameOf({ headers }: Pick<StoredRequest, 'headers'>): string | undefined {
  const value = fieldValue(headers, 'content-disposition');
  if (value === undefined) return undefined;
  const parameters = parametersOf(value);
  const name = extended(parameters.get('filename*')) ?? plain(parameters.get('filename'));
  const base = name?.split(/[/\\]/).at(-1)?.trim();
  return base === '' || base === '.' || base === '..' ? undefined : base;
}

/** RFC 9110 §5.6.6: name=token or name="quoted string"; of a repeated one the first counts. */
function parametersOf(value: string): Map<string, string> {
  const parameters = new Map<string, string>();
  const pattern = /;\s*([\w!#$%&'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]*))/g;
  for (const [, name, quoted, token] of value.matchAll(pattern)) {
    const key = name!.toLowerCase();
    if (!parameters.has(key)) parameters.set(key, quoted?.replace(/\\(.)/g, '$1') ?? token ?? '');
  }
  return parameters;
}

/** RFC 8187 §3.2: charset'language'percent-encoded. */
function extended(value: string | undefined): string | undefined {
  const [, charset, encoded] = /^([\w-]+)'[^']*'(.*)$/.exec(value ?? '') ?? [];
  if (charset === undefined || encoded === undefined) return undefined;
  const bytes = Buffer.from(
    encoded.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16))),
    'latin1',
  );
  const lower = charset.toLowerCase();
  if (lower === 'utf-8') return bytes.toString('utf8');
  return lower === 'iso-8859-1' ? bytes.toString('latin1') : undefined;
}

/** Many clients put raw UTF-8 there, which Node reads as Latin-1. */
function plain(value: string | undefined): string | undefined {
  if (value === undefined) return undefined;
  const utf8 = Buffer.from(value, 'latin1').toString('utf8');
  return utf8.includes('\ufffd') ? value : utf8;
}
