import { readdirSync, readFileSync } from 'node:fs';
import type { Cluster, Redis } from 'ioredis';
import { Fault } from '../../model/fault.js';

/** Scripts beside this file, in the source and in what is built from it. */
const DIRECTORY = new URL('lua/', import.meta.url);
const INCLUDE = /^-- include (parts\/[a-z-]+)$/gm;

/** How scripts tell the others: on a cluster of version 7 and later only those who listen to the same slot hear it. */
export type PublishCommand = 'PUBLISH' | 'SPUBLISH';

let scripts: ReadonlyMap<string, string> | undefined;

/** Binds every script of `lua/` to the client, under its file's name. They travel once a connection, then by their hash. */
export function bindScripts(client: Redis | Cluster, publish: PublishCommand): void {
  scripts ??= readScripts();
  for (const [name, lua] of scripts)
    client.defineCommand(commandName(name), { lua: `local PUBLISH = '${publish}'\n${lua}` });
}

interface Caller {
  readonly [command: string]: (...args: readonly unknown[]) => unknown;
}

/** Calls a bound script; on a pipeline, appends it. */
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
    throw new Fault('CONTRACT_BROKEN', `a part of this program is missing: ${message}`, false, { cause: error });
  }
}

/** A part is written once and included where it is needed; parts include nothing. */
function withParts(lua: string): string {
  return lua.replace(INCLUDE, (_, part: string) => read(`${part}.lua`));
}

function read(name: string): string {
  return readFileSync(new URL(name, DIRECTORY), 'utf8');
}
