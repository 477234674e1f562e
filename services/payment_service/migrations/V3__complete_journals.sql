-- New ledger entries need no look of their own: a journal is whole when its transaction ends, or refused
-- (ledger_journals_balance), and then has an entry for each of the two accounts that there are, so that its primary key
-- refuses a late one. Whoever adds an account has to have new entries looked at again.
-- The look at each entry was two thirds of what the server ran for the ledger. What the owner updates stays watched.
SET lock_timeout = '2s';

DROP TRIGGER ledger_entries_balance ON ledger_entries;
CREATE CONSTRAINT TRIGGER ledger_entries_balance AFTER UPDATE ON ledger_entries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_journal_balance();
