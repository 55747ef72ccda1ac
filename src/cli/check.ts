import type { Config } from '../config/config.js';
import { loadConfig, type ConfigSources } from '../config/load.js';
import type { RouteConfig } from '../config/route-config.js';
import { formatAddress } from '../config/scalars.js';
import { printMistakes } from './print-mistakes.js';

/** Prints what would be served and ends with 0, or prints every mistake and ends with 1. */
export function check(sources: ConfigSources): void {
  const loaded = loadConfig(sources);
  if ('mistakes' in loaded) {
    printMistakes(loaded.mistakes);
    process.exitCode = 1;
    return;
  }
  process.stdout.write(`ok\n${summary(loaded.config).join('\n')}\n`);
}

function summary(config: Config): string[] {
  const listeners = config.listeners.map(({ address, tls, http2 }) => {
    return `${formatAddress(address)} (${tls ? 'https' : 'http'}${http2 ? ', HTTP/2' : ''})`;
  });
  const rest = config.routes.length === 0 ? 'every path' : 'everything else';
  return [
    `listen    ${listeners.join(', ')}`,
    `admin     ${config.admin ? formatAddress(config.admin.address) : 'none'}`,
    `data      ${config.data} (${config.store.type} store, ${config.spool.type} spool, sync: ${config.spool.sync})`,
    ...config.routes.map(describeRoute),
    `route     ${rest} -> ${config.defaultRoute.origin}${config.defaultRoute.resumable ? ', resumable' : ''}`,
  ];
}

function describeRoute({ paths, methods, route }: RouteConfig): string {
  const which = [...(methods ? [methods.join(' ')] : []), paths.join(' ')].join(' ');
  return `route     ${which} -> ${route.origin}${route.resumable ? ', resumable' : ''}`;
}
