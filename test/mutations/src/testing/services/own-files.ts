import type { Change } from '../../../mutation.ts';

const test = 'test/bootstrap/own-files.test.ts';

export default [
  {
    name: 'own-folder-link',
    find: "if (!stats.isDirectory()) throw refused(path, stats.isSymbolicLink() ? 'is a symbolic link' : 'is no folder');\n  if (isForeign(stats))\n",
    replace: 'if (isForeign(stats))\n',
    mechanism: 'a folder of ours is no link to elsewhere',
    test,
    title: 'refuses a link in the place of %s, with a sentence',
  },
  {
    name: 'own-folder-foreign',
    find: 'return process.getuid !== undefined && uid !== process.getuid();',
    replace: 'return uid < 0;',
    mechanism: "another user's folder is not used",
    test,
    title: "refuses another user's %s, with a sentence",
  },
  {
    name: 'own-file-new',
    find: "rmSync(path, { force: true });\n  // Exclusive: fails where something came in between.\n  writeFileSync(path, content, { flag: 'wx', mode });",
    replace: 'writeFileSync(path, content, { mode });',
    mechanism: 'a file is made anew, whatever was there',
    test,
    title: 'puts a new file in the place of a link: %s',
  },
  {
    name: 'own-log-link',
    find: 'constants.O_CREAT | O_NOFOLLOW | O_NONBLOCK;',
    replace: 'constants.O_CREAT | O_NONBLOCK;',
    mechanism: 'a log is not opened through a link',
    test,
    title: 'a log is appended to, and a link, a hard link or a foreign file in its place is refused',
  },
] satisfies readonly Change[];
