import * as z from 'zod';
import { MIN_SECRET_LENGTH, pathOrNull } from './secrets.js';
import { boolean, headerName, text, valueType } from './values.js';

const DEFAULT_HEADERS = [
  ...['Proxy-Authorization', 'X-Api-Key', 'X-Auth-Token', 'X-Access-Token', 'X-Csrf-Token', 'X-Amz-Security-Token'],
  ...['X-Forwarded-Access-Token', 'X-Forwarded-Id-Token', 'X-Auth-Request-Access-Token', 'X-Auth-Request-Id-Token'],
];

/** The text of a key. */
function key() {
  return valueType({
    read: (found) => (typeof found === 'string' && found.length >= MIN_SECRET_LENGTH ? found : undefined),
    allowed: `a string of at least ${MIN_SECRET_LENGTH} characters (in quotes if it looks like a number)`,
    json: { type: 'string', minLength: MIN_SECRET_LENGTH },
    unit: 'secret text',
  });
}

/** `secrets`: credentials in the records of uploads. */
export const secrets = z
  .strictObject({
    keep: boolean()
      .prefault(true)
      .describe(
        '`true`: records keep credentials encrypted (AES-256-GCM), so that a delivery can be repeated after a restart. `false`: not at ' +
          'all; a delivery then uses those of the request that completed the upload, and after a restart waits until a client completes ' +
          'it again.',
      ),
    headers: z
      .array(text(headerName))
      .prefault(DEFAULT_HEADERS)
      .describe(
        'Header fields with secrets, of clients and of the authorization service. `Authorization`, `Cookie`, those in ' +
          '`delivery.credentials` and every field with the URL of an upload are such fields in any case.',
      ),
    keys: z
      .array(key())
      .prefault([])
      .describe(
        `Keys of at least ${MIN_SECRET_LENGTH} characters, the same on every node: the first encrypts, all decrypt. Without any the proxy ` +
          'makes one in `data` (`secrets.keys`), or with `cluster` derives one from its secret.',
      ),
    keys_file: pathOrNull()
      .prefault(null)
      .describe(
        'File with such keys, one a line, instead of `keys`; `rufh-proxy keys rotate` adds one to it, ' +
          'but with `cluster` every node has a file of its own, which you change first.',
      ),
  })
  .prefault({})
  .describe('Credentials in the records of uploads, and how they are protected on the disk and in Redis.');
