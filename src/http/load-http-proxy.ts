import { createRequire } from 'node:module';
import util from 'node:util';
import type HttpProxy from 'http-proxy';

/**
 * http-proxy without the deprecation warning DEP0060: it takes `util._extend` when it is loaded and calls it for every
 * request. For that moment the deprecated function is a plain one that does the same; afterwards `util` is as it was.
 * Ends when http-proxy uses Object.assign.
 */
export function loadHttpProxy(): typeof HttpProxy {
  const deprecated = Object.getOwnPropertyDescriptor(util, '_extend');
  Object.defineProperty(util, '_extend', { value: extend, configurable: true, writable: true });
  try {
    return createRequire(import.meta.url)('http-proxy') as typeof HttpProxy;
  } finally {
    if (deprecated) Object.defineProperty(util, '_extend', deprecated);
  }
}

function extend(target: object, source: object | null | undefined): object {
  return Object.assign(target, source);
}
