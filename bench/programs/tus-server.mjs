// @tus/server with its file store, as its documentation shows it. Arguments: the directory with its node_modules, and that of the uploads.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [packages, directory] = process.argv.slice(2);
const { resolve } = createRequire(join(packages, 'package.json'));
const load = (name) => import(pathToFileURL(resolve(name)));
const [{ Server }, { FileStore }] = await Promise.all([load('@tus/server'), load('@tus/file-store')]);
const tus = new Server({ path: '/files', datastore: new FileStore({ directory }) });
const server = tus.listen({ host: '127.0.0.1', port: 0 }, () =>
  console.log(JSON.stringify({ port: server.address().port })),
);
