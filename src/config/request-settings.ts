import * as z from 'zod';
import { endpoint, headerName, textMap } from './request-scalars.js';
import { duration, oneOf, scalar, text } from './scalars.js';

/** Stand for something of the creation in `delivery.target`. */
const PLACEHOLDERS: readonly string[] = ['target', 'path', 'query', 'filename'];
/** Visible ASCII of a path and query; braces only around a placeholder. */
const TARGET = /^(?:\/|\{target\}|\{path\})(?:[!$%&'()*+,./:;=?@\w~-]|\{[a-z]+\})*$/;

/** Path and query of the origin's request, with placeholders. */
export function targetTemplate() {
  return scalar({
    read: (found) => {
      if (found === null || found === '') return null;
      if (typeof found !== 'string' || !TARGET.test(found)) return undefined;
      const used = [...found.matchAll(/\{([a-z]+)\}/g)].map((match) => match[1]!);
      return used.every((name) => PLACEHOLDERS.includes(name)) ? found : undefined;
    },
    allowed:
      'a path and query such as /store{path}?name={filename}, with the placeholders ' +
      `${PLACEHOLDERS.map((name) => `{${name}}`).join(', ')}, or null`,
    json: { type: ['string', 'null'], pattern: TARGET.source },
    unit: 'path and query',
  });
}

const FIELD_NAME = {
  form: /^[^"\r\n\0]{1,200}$/,
  allowed: 'a field name of up to 200 letters without quotes and line breaks',
};

const multipart = z.strictObject({
  type: oneOf(['multipart'], 'multipart; for the bytes as they are write "framing: raw"')
    .prefault('multipart')
    .describe('The framing that the other settings here belong to.'),
  field: text(FIELD_NAME)
    .prefault('file')
    .describe('Name of the field that holds the file. Its filename and type are those of the creation.'),
  fields: textMap({ name: FIELD_NAME, value: { form: /^[^\0]*$/, allowed: 'a text' } })
    .prefault({})
    .describe('More fields with fixed values, before the file: `name: value`.'),
  fields_from_headers: textMap({ name: FIELD_NAME, value: headerName })
    .prefault({})
    .describe('More fields with the value of a header of the creation, before the file: `name: Header-Name`.'),
});

const word = oneOf(['raw', 'multipart'], 'raw, multipart, or a group with type: multipart').transform((type) =>
  type === 'raw' ? { type } : multipart.parse({}),
);

/** What the origin's request body is. A word alone is the group with its defaults. */
export function framing() {
  return z.union([word, multipart]);
}

const gateGroup = z
  .strictObject({
    http: endpoint()
      .optional()
      .describe(
        'URL that gets the whole upload by POST. 2xx allows it, 4xx refuses it and is the client’s answer, 2xx with ' +
          '`X-Upload-Verdict: quarantine` keeps it for the operator. Either this or `command`.',
      ),
    command: z
      .array(text({ form: /^[^\0]+$/, allowed: 'a program or argument' }))
      .min(1, 'a list of the program and its arguments')
      .optional()
      .describe(
        'Program and arguments that get the whole upload on standard input, without a shell. Exit code 0 allows it, 1 ' +
          'refuses it with its output as the client’s answer, 3 keeps it for the operator. Either this or `http`.',
      ),
    timeout: duration({ leastMs: 1 })
      .prefault('5m')
      .describe('A verdict that takes longer is none: the upload is not delivered for now.'),
  })
  .refine(({ http, command }) => (http === undefined) !== (command === undefined), {
    message: 'a group with either http or command',
  });

/** Who has to agree to a delivery. */
export function gate() {
  return gateGroup.nullable();
}
