import { fieldValue } from '../model/headers.js';
import type { StoredRequest } from '../model/upload.js';
import { uploadMetadata, utf8 } from './upload-metadata.js';

/**
 * The name that a creation gives its file, without folders, because the client's file system is not the origin's, and without
 * control characters. `filename*` of its `Content-Disposition` (RFC 6266 §4.3), then `filename`, then `Upload-Metadata`: the
 * first that can be read and names a file. Undefined when there is none.
 */
export function filenameOf({ headers }: Pick<StoredRequest, 'headers'>): string | undefined {
  const parameters = parametersOf(fieldValue(headers, 'content-disposition') ?? '');
  const names = [
    extended(parameters.get('filename*')),
    plain(parameters.get('filename')),
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
function parametersOf(value: string): Map<string, string> {
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
function extended(value: string | undefined): string | undefined {
  const [, charset, encoded] =
    /^([\w-]+)'[\w-]*'((?:[^%\x00-\x1f\x7f-\xff]|%[0-9A-Fa-f]{2})*)$/.exec(value ?? '') ?? [];
  if (charset === undefined || encoded === undefined) return undefined;
  const bytes = Buffer.from(
    encoded.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16))),
    'latin1',
  );
  const lower = charset.toLowerCase();
  if (lower === 'utf-8') return utf8(bytes);
  return lower === 'iso-8859-1' ? bytes.toString('latin1') : undefined;
}

/** Many clients put raw UTF-8 there, which Node reads as Latin-1. */
function plain(value: string | undefined): string | undefined {
  return value === undefined ? undefined : (utf8(Buffer.from(value, 'latin1')) ?? value);
}
