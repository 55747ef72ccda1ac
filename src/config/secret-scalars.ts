import { resolve } from 'node:path';
import type { TextForm } from './request-scalars.js';
import { isNull, scalar } from './scalars.js';

/** A text with a certain form, or `null`. */
export function textOrNull({ form, allowed }: TextForm) {
  return scalar({
    read: (found) => (isNull(found) ? null : typeof found === 'string' && form.test(found) ? found : undefined),
    allowed: `${allowed}, or null`,
    json: { type: ['string', 'null'], pattern: form.source },
    unit: 'text',
  });
}

/** A password, or `null`. YAML would make a number of 007. */
export function secretOrNull({ least = 1 } = {}) {
  const length = least > 1 ? ` of at least ${least} letters` : '';
  return scalar({
    read: (found) => (isNull(found) ? null : typeof found === 'string' && found.length >= least ? found : undefined),
    allowed: `a text${length}, in quotes when it looks like a number, or null`,
    json: { type: ['string', 'null'], minLength: least },
    unit: 'secret text',
  });
}

/** A file, made absolute, or `null`. */
export function pathOrNull() {
  return scalar({
    read: (found) => (isNull(found) ? null : typeof found === 'string' ? resolve(found) : undefined),
    allowed: 'the path of a file, or null',
    json: { type: ['string', 'null'] },
    unit: 'path',
  });
}
