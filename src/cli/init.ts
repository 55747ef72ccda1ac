import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Writes a configuration in which every setting is explained; never over an existing file. */
export function init(file: string): void {
  const shipped = new URL('../../config/', import.meta.url);
  const example = readFileSync(new URL('rufh-proxy.example.yaml', shipped), 'utf8');
  const schema = fileURLToPath(new URL('schema.json', shipped));
  try {
    writeFileSync(file, example.replace('$schema=./schema.json', `$schema=${schema}`), { flag: 'wx' });
    process.stdout.write(`wrote ${file}; set "origin" in it, then: rufh-proxy serve --config ${file}\n`);
  } catch (error) {
    process.stderr.write(`rufh-proxy: ${whyNot(file, error as NodeJS.ErrnoException)}\n`);
    process.exitCode = 1;
  }
}

function whyNot(file: string, error: NodeJS.ErrnoException): string {
  if (error.code === 'EEXIST') return `${file} exists already and was left as it is; name another file`;
  return `cannot write ${file}: ${error.code ?? error.message}`;
}
