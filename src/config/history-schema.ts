import * as z from 'zod';
import { duration, size } from './values.js';

/** Smaller ones would hold hardly more than the upload that is under way. */
const SMALLEST = 64 * 1024;

/** `history`: what happened to uploads, for `rufh-proxy uploads show`. */
export const history = z
  .strictObject({
    keep: duration()
      .prefault('7d')
      .describe(
        'How long the requests, deliveries and other events of uploads are kept, also after the upload is gone. `0s`: ' +
          'not at all. With Redis they are not kept.',
      ),
    max_bytes: size({ min: SMALLEST })
      .prefault('64MiB')
      .describe('The size of the files with these events, `history/` in `data`; the oldest are removed first.'),
  })
  .prefault({})
  .describe('What happened to each upload, for `rufh-proxy uploads show`.');
