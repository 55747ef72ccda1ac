import { readdirSync, readFileSync } from 'node:fs';
import type { Cluster, Redis } from 'ioredis';
import { Fault } from '../../model/fault.js';

/** The scripts are next to this file, in the source and in the build. */
const DIRECTORY = new URL('lua/', import.meta.url);
const INCLUDE = /^-- include (parts\/[a-z-]+)$/gm;

/**
 * The command with which scripts publish. On a cluster of version 7 and later only subscribers of the same slot get
 * the message.
 */
export type PublishCommand = 'PUBLISH' | 'SPUBLISH';

let scripts: ReadonlyMap<string, string> | undefined;

/**
 * Binds every script of `lua/` to the client under its file's name. Each is sent once per connection, then called by
 * its hash.
 */
export function bindScripts(client: Redis | Cluster, publish: PublishCommand): void {
  scripts ??= readScripts();
  for (const [name, lua] of scripts)
    client.defineCommand(commandName(name), { lua: `local PUBLISH = '${publish}'\n${lua}` });
}

interface Caller {
  readonly [command: string]: (...args: readonly unknown[]) => unknown;
}

/** Calls a bound script, or appends it to a pipeline. The first key decides the server. */
export function callScript(
  client: object,
  name: string,
  keys: readonly string[],
  args: readonly (string | number | Buffer)[],
): unknown {
  return (client as Caller)[commandName(name)]!(keys.length, ...keys, ...args);
}

function commandName(name: string): string {
  return `rufh:${name}`;
}

function readScripts(): ReadonlyMap<string, string> {
  try {
    const names = readdirSync(DIRECTORY).filter((name) => name.endsWith('.lua'));
    return new Map(names.map((name) => [name.replace(/\.lua$/, ''), withParts(read(name))]));
  } catch (error) {
    const { message } = error as Error;
    throw new Fault('CONTRACT_BROKEN', `a file of this program is missing: ${message}`, false, { cause: error });
  }
}

/** Replaces each include line with the part's text; parts include nothing themselves. */
function withParts(lua: string): string {
  return lua.replace(INCLUDE, (_, part: string) => read(`${part}.lua`));
}

function read(name: string): string {
  return readFileSync(new URL(name, DIRECTORY), 'utf8');
}
