import type { StoredRequest } from '../model/upload.js';
import { filenameOf } from './filename.js';

/**
 * The target of the origin's request: the creation's own, or a template with `{target}` (path and query), `{path}`,
 * `{query}` (without its question mark) and `{filename}` (percent-encoded, "upload" when there is none).
 */
export function targetOf(request: Pick<StoredRequest, 'target' | 'headers'>, template: string | undefined): string {
  if (template === undefined) return request.target;
  const [path, query = ''] = splitOnce(request.target, '?');
  const values: Readonly<Record<string, string>> = {
    target: request.target,
    path,
    query,
    filename: encodeURIComponent(filenameOf(request) ?? 'upload'),
  };
  const filled = template.replace(/\{(target|path|query|filename)\}/g, (_, name: string) => values[name]!);
  return filled.startsWith('/') ? filled : `/${filled}`;
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at === -1 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}
