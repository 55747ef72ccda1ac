import { readFileSync } from 'node:fs';
import { Haproxy } from './haproxy.js';
import type { ProxyProcess } from './proxy.js';
import { serverPort } from './server-port.js';

const FILE = new URL('../../deploy/haproxy.cfg', import.meta.url);

/** HAProxy with the configuration that we ship, and these nodes of this machine in place of its containers. */
export async function startShippedHaproxy(nodes: ReadonlyMap<string, ProxyProcess>): Promise<Haproxy> {
  const port = await serverPort();
  const servers = (isChecked: boolean): string =>
    [...nodes]
      .map(([name, { url, adminUrl }]) => {
        const check = isChecked ? ` port ${new URL(adminUrl).port}` : '';
        return `  server ${name} ${new URL(url).host}${check}\n`;
      })
      .join('');
  let backend = 0;
  const text = readFileSync(FILE, 'utf8')
    .replaceAll(/( {2}server proxy-\d .*\n)+/g, () => servers(backend++ === 0))
    .replace('check port 9090', 'check')
    .replace('bind :8080', `bind 127.0.0.1:${port}`);
  return Haproxy.startWith(text, port);
}
