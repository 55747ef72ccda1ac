import { type ProxyProcess, startProxy } from '../test/support/proxy-process.js';
import { temporaryDirectory, type TemporaryDirectory } from '../test/support/temporary.js';
import { demoFile, type DemoFile, Hindrance } from './file.js';
import { type PlainOrigin, startPlainOrigin } from './plain-origin.js';
import { mebibytes, Screen } from './screen.js';
import { sentAgain, TroubledUpload } from './troubled-upload.js';
import { type Claim, judge } from './verdict.js';

// The demo: an ordinary API, the proxy in front of it, and an upload that everything goes wrong with.

const USAGE = `
  npm run demo               uploads 256 MiB made on the spot
  npm run demo -- FILE       uploads your file
`;

const screen = new Screen(process.stdout);

/** What is running and must be gone at the end, however the demo ends. */
const running: {
  directory?: TemporaryDirectory;
  origin?: PlainOrigin;
  proxy?: ProxyProcess;
  restarting?: Promise<unknown>;
} = {};

async function demo(named: string | undefined): Promise<boolean> {
  const startedAt = Date.now();
  screen.say(`\n  ${screen.paint('bold', 'rufh-proxy')}: an upload cut three times, the proxy killed once, one POST\n`);
  running.directory = await temporaryDirectory('rufh-demo-');
  const origin = (running.origin = await startPlainOrigin());
  const proxy = (running.proxy = await startProxy({ origin: origin.url }));
  introduce(origin.url, proxy.url);
  const file = await demoFile(named, running.directory.path);
  screen.say(`  file    ${file.name}, ${mebibytes(file.size)}   ${dim(`SHA-256 ${file.sha256.slice(0, 16)}…`)}`);
  if (screen.live) screen.say(`  bar     █ the proxy has it   ▒ on its way`);
  screen.say();
  const target = `/files?name=${encodeURIComponent(file.name)}`;
  const told = await new TroubledUpload({ file, url: proxy.url + target, killProxy }, screen).run();
  const received = await origin.received();
  const verdict = judge({ ...told, file, target, received });
  tell('What happened on the way', verdict.onTheWay);
  tell('What the origin got', verdict.atTheOrigin);
  const proven = [...verdict.onTheWay, ...verdict.atTheOrigin].every(({ holds }) => holds);
  const seconds = ((Date.now() - startedAt) / 1000).toFixed(1);
  screen.say(
    proven ? conclusion(file, sentAgain(told, file), seconds) : screen.paint('red', '\n  It failed: see ✘ above.\n'),
  );
  return proven;
}

function dim(text: string): string {
  return screen.paint('dim', text);
}

function introduce(originUrl: string, proxyUrl: string): void {
  screen.say(`  origin  ${originUrl}   ${dim('a plain API, knows of no resumable uploads')}`);
  screen.say(`  proxy   ${proxyUrl}   ${dim('rufh-proxy serve --origin <the line above>')}`);
}

function tell(title: string, claims: readonly Claim[]): void {
  screen.say(`\n  ${screen.paint('bold', title)}`);
  for (const { what, seen, holds } of claims) {
    const mark = holds ? screen.paint('green', '✔') : screen.paint('red', '✘');
    screen.say(`  ${mark} ${what.padEnd(10)} ${seen}`);
  }
}

function conclusion(file: DemoFile, again: string, seconds: string): string {
  return `\n  Done in ${seconds} s; ${again} of ${mebibytes(file.size)} had to be sent again.\n`;
}

/** The client notices by itself: its connection breaks, and for a moment nobody listens. */
function killProxy(): Promise<number> {
  const killedAt = Date.now();
  const restarting = running.proxy!.restart().then((proxy) => {
    running.proxy = proxy;
    return Date.now() - killedAt;
  });
  running.restarting = restarting.catch(() => undefined);
  return restarting;
}

async function cleanUp(): Promise<void> {
  screen.hide();
  await running.restarting;
  running.origin?.stop();
  await running.proxy?.stop();
  await running.directory?.remove();
}

async function main(args: readonly string[]): Promise<number> {
  if (args.some((argument) => argument.startsWith('-'))) {
    console.log(USAGE);
    return args.includes('--help') || args.includes('-h') ? 0 : 2;
  }
  try {
    return (await demo(args[0])) ? 0 : 1;
  } catch (error) {
    screen.hide();
    const known = error instanceof Hindrance ? error.message : undefined;
    console.error(`\n  ${known ?? (error instanceof Error ? (error.stack ?? error.message) : String(error))}\n`);
    return 1;
  } finally {
    await cleanUp();
  }
}

/** Nothing stays behind when the person stops the demo, or what it is piped into ends. */
function leave(code: number): void {
  screen.close();
  void cleanUp().finally(() => process.exit(code));
}

process.once('SIGINT', () => leave(130));
process.once('SIGTERM', () => leave(143));
process.stdout.once('error', () => leave(1));
process.exitCode = await main(process.argv.slice(2));
