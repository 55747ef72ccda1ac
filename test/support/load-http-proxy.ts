import { createRequire } from 'node:module';
import util from 'node:util';
import type HttpProxy from 'http-proxy';

/**
 * Loads http-proxy, which ours is compared with, without the deprecation warning DEP0060: it reads `util._extend` when it is
 * loaded, so a plain function replaces that one during the load.
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
