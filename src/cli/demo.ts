import { once } from 'node:events';
import { networkInterfaces, tmpdir } from 'node:os';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type Address, formatAddress, readAddress } from '../config/values.js';
import { type Demo, startDemo, type TcpAddress } from '../demo/demo.js';
import type { DemoEvent } from '../demo/events.js';
import { ProxyNotStarted } from '../demo/proxy-process.js';
import { failWith } from './fail.js';
import { formatBytes } from './format-uploads.js';
import { describeStartupError } from './startup-errors.js';

const EXPLANATION = `
Starts everything on this machine: a small example API that serves the page, a proxy in front of it, and a relay between
browsers and the proxy. On the page you upload a file with rufh-proxy/client, tus-js-client or Uppy, cut the connection
or kill the proxy, and see what the API gets. The page loads nothing from the internet.

The buttons work in a browser on this machine only. To upload from a phone in the same network:
  $ rufh-proxy demo --listen 0.0.0.0:8080

Ctrl-C ends everything and removes the uploads, unless --data names a directory.`;

interface DemoCommandOptions {
  readonly listen: TcpAddress;
  readonly controls: TcpAddress;
  readonly data?: string;
}

/** Adds `demo`. */
export function addDemoCommand(root: Command, version: string): void {
  root
    .command('demo')
    .description('serve a page on which you upload a file, pull the plug, and see the upload go on')
    .addOption(addressOption('--listen <address>', 'HOST:PORT of the page; port 0 picks a free port', '127.0.0.1:8080'))
    .addOption(addressOption('--controls <address>', 'HOST:PORT of its buttons; fixed for containers', '127.0.0.1:0'))
    .option('--data <dir>', 'directory for uploads (default: a temporary one that is removed at the end)')
    .addHelpText('after', EXPLANATION)
    .action((options: DemoCommandOptions) => run(options, version));
}

function addressOption(flags: string, help: string, preset: string): Option {
  return new Option(flags, help).argParser(parseAddress).default(parseAddress(preset), preset);
}

function parseAddress(text: string): TcpAddress {
  const address: Address | undefined = readAddress(text);
  if (address?.kind === 'tcp') return address;
  throw new InvalidArgumentError('It must be HOST:PORT, such as 127.0.0.1:8080.');
}

async function run(options: DemoCommandOptions, version: string): Promise<void> {
  const ending = new AbortController();
  const onSignal = (): void => {
    // The second signal ends the program at once, even if something hangs.
    if (ending.signal.aborted) process.exit(1);
    ending.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  try {
    const demo = await startDemo({
      ...options,
      version,
      clock: () => performance.now(),
      onEvent: printEvent,
      onFailure: (reason) => {
        failWith(reason, 1);
        ending.abort();
      },
    });
    introduce(demo, options);
    if (!ending.signal.aborted) await once(ending.signal, 'abort');
    await demo.stop();
  } catch (error) {
    failWith(describeFailure(error, options), 1);
  }
  process.exit();
}

function describeFailure(error: unknown, { data = tmpdir() }: DemoCommandOptions): string {
  // The proxy has explained it already.
  if (error instanceof ProxyNotStarted) return error.message;
  return describeStartupError(error, { data, admin: undefined });
}

function introduce(demo: Demo, { listen, data }: DemoCommandOptions): void {
  const lines = [
    '',
    `  Open   ${pageUrl(listen.host, demo.port)}`,
    ...(isEveryAddress(listen.host) ? lanAddresses().map((host) => `  or     ${pageUrl(host, demo.port)}`) : []),
    '',
    `  relay  ${formatAddress({ kind: 'tcp', host: listen.host, port: demo.port })}, which the page cuts and slows down`,
    `  proxy  ${demo.proxyUrl}, which the page kills`,
    `  API    ${demo.originUrl}, which knows nothing about resumable uploads`,
    `  data   ${demo.data}${data === undefined ? ', removed at the end' : ''}`,
    '',
    '  Ctrl-C ends the demo.',
    '',
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

function isEveryAddress(host: string): boolean {
  return host === '0.0.0.0' || host === '::';
}

function pageUrl(host: string, port: number): string {
  return `http://${formatAddress({ kind: 'tcp', host: isEveryAddress(host) ? '127.0.0.1' : host, port })}/`;
}

/** The addresses under which other machines may reach this one. */
function lanAddresses(): string[] {
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  return all.filter(({ family, internal }) => family === 'IPv4' && !internal).map(({ address }) => address);
}

function printEvent(event: DemoEvent): void {
  const text = textOf(event);
  if (text !== undefined) process.stdout.write(`  ${text}\n`);
}

function textOf(event: DemoEvent): string | undefined {
  switch (event.kind) {
    case 'cut':
      return `✂  cut the connection (${event.connections} open)`;
    case 'killed':
      return `☠  killed the proxy (process ${event.pid})`;
    case 'started':
      return `↻  the proxy runs again (process ${event.pid})`;
    case 'origin-received':
      return `✔  the API got a ${event.method}: ${formatBytes(event.size)}, SHA-256 ${event.sha256 ?? ''}`;
    case 'origin-began':
    case 'restored':
    case 'state':
    case 'uploads':
      return undefined;
  }
}
