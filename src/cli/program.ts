import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import { OVERRIDES } from '../config/flags.js';
import type { ConfigSources } from '../config/load.js';
import { addDemoCommand } from './demo.js';
import { addDrainCommand } from './drain.js';
import { addKeysCommand } from './keys.js';
import { addReloadCommand } from './reload.js';
import { addUploadCommand } from './upload.js';
import { addUploadsCommand } from './uploads.js';

const EXAMPLES = `
Examples:
  $ rufh-proxy demo
        serves a page on which you upload a file, pull the plug, and see the upload go on
  $ rufh-proxy serve --origin http://127.0.0.1:3000
        accepts resumable uploads on every path of that API, on port 8080, and keeps them in ./data
  $ rufh-proxy init && rufh-proxy check --config rufh-proxy.yaml
        writes a configuration with every setting explained, and checks it
  $ rufh-proxy serve --config rufh-proxy.yaml
        runs the proxy with it
  $ rufh-proxy uploads list --phase undelivered
        lists complete uploads that their origin has not answered; see "rufh-proxy uploads --help"
  $ rufh-proxy upload film.mp4 https://example.com/files/
        sends a file to such a proxy, and continues after interruptions; see "rufh-proxy upload --help"

Every flag of serve has an environment variable, such as RUFH_PROXY_ORIGIN for --origin: see "rufh-proxy serve --help".
A flag overrides its variable, and both override the file.`;

/** Builds the commands and flags of `rufh-proxy`. */
export function program(): Command {
  const root = new Command('rufh-proxy')
    .description('A reverse proxy that gives an unchanged HTTP API resumable uploads.')
    .version(version(), '-v, --version', 'print the version')
    .helpCommand('help [command]', 'explain a command')
    .addHelpText('after', EXAMPLES)
    .showHelpAfterError('(rufh-proxy --help explains the commands)');
  addConfigOptions(root.command('serve'))
    .description('run the proxy')
    .addHelpText('after', SIGNALS)
    .action(async (_options, command: Command) => {
      // Imported here, so that the other commands do not load the proxy.
      const { serve } = await import('./serve.js');
      await serve(configSources(command), version());
    });
  addConfigOptions(root.command('check'))
    .description('check a configuration, and print all its errors or a summary of what would be served')
    .action(async (_options, command: Command) => {
      const { check } = await import('./check.js');
      await check(configSources(command));
    });
  root
    .command('init')
    .description('write a configuration with every setting explained')
    .argument('[file]', 'file to write; an existing file is not overwritten', 'rufh-proxy.yaml')
    .action(init);
  addUploadCommand(root);
  addUploadsCommand(root);
  addDemoCommand(root, version());
  addDrainCommand(root);
  addKeysCommand(root);
  addReloadCommand(root);
  return root;
}

const SIGNALS = `
The proxy prints one "listening" line on standard output as soon as it accepts requests. Logs
follow on standard output; everything before that line goes to standard error.
The first SIGTERM or SIGINT stops it gracefully: uploads in progress keep their bytes and can be resumed.
The second stops it immediately; acknowledged bytes are safe even then.
SIGHUP reloads the configuration, as "rufh-proxy reload" does; requests in progress are not disturbed.`;

function addConfigOptions(command: Command): Command {
  command.addOption(new Option('-c, --config <file>', 'configuration file (YAML)').env('RUFH_PROXY_CONFIG'));
  for (const { flag, variable, help } of OVERRIDES) command.option(flag, `${help} [${variable}]`);
  return command;
}

/** The sources of the configuration. Defaults of the parser are not flags that were given. */
function configSources(command: Command): ConfigSources {
  const options = command.opts<Record<string, unknown>>();
  const isGiven = (key: string) => command.getOptionValueSource(key) === 'cli';
  return {
    ...(typeof options['config'] === 'string' ? { file: options['config'] } : {}),
    env: process.env,
    flags: Object.fromEntries(Object.entries(options).filter(([key]) => key !== 'config' && isGiven(key))),
  };
}

function version(): string {
  const file = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

/** Writes a configuration with every setting explained. Never overwrites an existing file. */
function init(file: string): void {
  const shipped = new URL('../../config/', import.meta.url);
  const example = readFileSync(new URL('rufh-proxy.example.yaml', shipped), 'utf8');
  const schema = fileURLToPath(new URL('schema.json', shipped));
  try {
    writeFileSync(file, example.replace('$schema=./schema.json', `$schema=${schema}`), { flag: 'wx' });
    process.stdout.write(`wrote ${file}; set "origin" in it, then run: rufh-proxy serve --config ${file}\n`);
  } catch (error) {
    process.stderr.write(`rufh-proxy: ${describeWriteError(file, error as NodeJS.ErrnoException)}\n`);
    process.exitCode = 1;
  }
}

function describeWriteError(file: string, error: NodeJS.ErrnoException): string {
  if (error.code === 'EEXIST') return `${file} already exists and was not changed; choose another file`;
  return `cannot write ${file}: ${error.code ?? error.message}`;
}
