import { Command } from 'commander';
import { addUploadCommand } from './upload.js';

// The configuration takes a quarter of a second to load, and an upload needs none.
const root =
  process.argv[2] === 'upload'
    ? addUploadCommand(new Command('rufh-proxy')).showHelpAfterError()
    : (await import('./program.js')).program();
await root.parseAsync();
