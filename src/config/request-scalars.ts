import * as z from 'zod';
import { isNull, scalar } from './scalars.js';

/** A form and what to say when something has another one. */
export interface TextForm {
  readonly form: RegExp;
  /** Completes the sentence "allowed is …". */
  readonly allowed: string;
}

/** RFC 9110 §5.1. */
export const headerName: TextForm = {
  form: /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/,
  allowed: 'the name of a header such as X-Request-Id',
};

/** A method whose request carries a body, or `null`. */
export function methodOrNull() {
  const form = /^(?!(?:GET|HEAD|DELETE|OPTIONS|TRACE|CONNECT)$)[A-Z][A-Z-]*$/;
  return scalar({
    read: (found) => (isNull(found) ? null : typeof found === 'string' && form.test(found) ? found : undefined),
    allowed: 'a method in capitals that carries a body, such as PUT, or null',
    json: { type: ['string', 'null'], pattern: form.source },
    unit: 'method',
  });
}

/** One http or https address that is asked as it is written: path and query included. */
export function endpoint() {
  return scalar({
    read: (found) => {
      if (typeof found !== 'string' || !/^https?:\/\//i.test(found) || !URL.canParse(found)) return undefined;
      const url = new URL(found);
      return url.hash || url.username || url.password ? undefined : url.href;
    },
    allowed: 'a URL such as http://127.0.0.1:4181/verify, without fragment or credentials',
    json: { type: 'string', pattern: '^https?://[^#@]+$' },
    unit: 'URL',
  });
}

/** A group of names and texts, in the order of the file; a number or truth value counts as the text it is written as. */
export function textMap({ name, value }: { readonly name: TextForm; readonly value: TextForm }) {
  return z
    .unknown()
    .transform((found, context): [name: string, value: string][] => {
      const issue = (message: string, path: string[] = []) =>
        void context.issues.push({ code: 'custom', message, path, input: found });
      if (typeof found !== 'object' || found === null || Array.isArray(found)) {
        issue('a group of names and texts (name: value)');
        return z.NEVER;
      }
      const entries = Object.entries(found).map(([key, one]): [string, string] => [key, asText(one)]);
      for (const [key, one] of entries) {
        if (!name.form.test(key)) issue(`${name.allowed} before each colon`);
        else if (!value.form.test(one)) issue(value.allowed, [key]);
      }
      return entries;
    })
    .meta({ type: 'object', additionalProperties: { type: ['string', 'number', 'boolean'] }, unit: 'names and texts' });
}

/** What cannot be a text becomes one that no form takes. */
function asText(found: unknown): string {
  if (typeof found === 'string') return found;
  return typeof found === 'number' || typeof found === 'boolean' ? String(found) : '\0';
}
