export async function writeRun(_run: unknown): Promise<void> {}
export async function writeRecovery(_figures: unknown): Promise<void> {}
