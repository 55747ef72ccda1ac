import { readdir, readFile } from 'node:fs/promises';
import { extname } from 'node:path';

/** One file of the page. */
export interface PageFile {
  readonly type: string;
  readonly bytes: Buffer;
}

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
};

/** Reads the page, which `build.js` puts beside this program, by paths such as `/page.js`. */
export async function readPageFiles(): Promise<ReadonlyMap<string, PageFile>> {
  const directory = new URL('./page/', import.meta.url);
  const names = (await readdir(directory)).filter((name) => extname(name) in TYPES);
  const entries = names.map(async (name): Promise<[string, PageFile]> => {
    return [`/${name}`, { type: TYPES[extname(name)]!, bytes: await readFile(new URL(name, directory)) }];
  });
  return new Map(await Promise.all(entries));
}
