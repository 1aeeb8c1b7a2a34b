//! Users and their functions.

use std::time::Duration;

use units::{Amount, FunctionName, MilliCores, Standing, UserName};

use super::grants::Cause;
use super::limits::check_spending;
use super::{Bank, BankError, Change};
use crate::alert::Alert;
use crate::pace;
use crate::users::{Function, SettingsPatch, User, UserState};

/// A user as people and the CLI see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserView {
    pub user: User,
    /// All reported usage included.
    pub balance: Amount,
    /// Seen on chain and not yet credited.
    pub pending: Amount,
    /// Set aside for live sessions, debt room included.
    pub granted: Amount,
    pub standing: Standing,
    /// Why new work is refused, if it is.
    pub refusal: Option<String>,
    /// Allocated to live sessions.
    pub capacity: MilliCores,
    /// What they cost an hour at their present pace.
    pub burn: Amount,
    /// That the balance fell to its threshold, as long as it is not above again.
    pub alert: Option<Alert>,
    pub live_sessions: usize,
}

impl UserView {
    /// How long the balance lasts at the present pace; `None` while nothing is used up.
    pub fn runway(&self) -> Option<Duration> {
        pace::lasts(self.balance, self.burn)
    }
}

impl Bank {
    pub fn has_user(&self, name: &UserName) -> bool {
        self.users.contains_key(name)
    }

    /// Errors if there is no such user.
    pub fn check_user(&self, name: &UserName) -> Result<(), BankError> {
        self.user(name).map(drop)
    }

    pub fn create_user(&mut self, user: User) -> Result<UserView, BankError> {
        if self.has_user(&user.name) {
            return Err(BankError::UserExists(user.name));
        }
        if self.addresses.contains_key(&user.address) {
            return Err(BankError::AddressTaken(user.address));
        }
        self.effects.changes.push(Change::User(user.clone()));
        let name = user.name.clone();
        self.addresses.insert(user.address.clone(), name.clone());
        self.users.insert(name.clone(), UserState::new(user));
        self.note_gate(&name);
        self.view(&name)
    }

    /// Changes what the patch sets; live sessions keep the price and billing they were opened with.
    pub fn update_user(&mut self, name: &UserName, patch: &SettingsPatch) -> Result<UserView, BankError> {
        let Some(state) = self.users.get_mut(name) else {
            return Err(self.unknown_user(name));
        };
        let settings = state.user.settings.patched(patch);
        check_spending(patch.max_spend.flatten(), &settings)?;
        if settings != state.user.settings {
            state.user.settings = settings;
            self.effects.changes.push(Change::User(state.user.clone()));
            self.share_out(name, &Cause::Funds);
            self.arm(name);
        }
        self.view(name)
    }

    pub fn view(&self, name: &UserName) -> Result<UserView, BankError> {
        self.user(name).map(|state| self.view_of(state))
    }

    pub fn views(&self) -> Vec<UserView> {
        self.users.values().map(|state| self.view_of(state)).collect()
    }

    fn view_of(&self, state: &UserState) -> UserView {
        let balance = self.balance(state);
        let settings = &state.user.settings;
        let capacities = state.sessions.iter().filter_map(|id| self.sessions.get(id));
        UserView {
            user: state.user.clone(),
            balance,
            pending: state.pending,
            granted: state.purse.granted(),
            standing: settings.standing(balance),
            refusal: settings.may_start(&state.user.name, balance).err(),
            burn: state.burn,
            alert: state.alarm.raised().cloned(),
            capacity: capacities.map(|session| session.capacity).sum(),
            live_sessions: state.sessions.len(),
        }
    }

    /// Registers a function to the user who pays for it. The same again is no error.
    pub fn create_function(
        &mut self,
        function: FunctionName,
        name: &UserName,
    ) -> Result<Function, BankError> {
        self.user(name)?;
        match self.functions.get(&function) {
            Some(known) if known.user != *name => Err(BankError::FunctionTaken {
                function,
                owner: known.user.clone(),
            }),
            Some(known) if !known.is_deleted => Ok(known.clone()),
            _ => {
                let function = Function {
                    name: function,
                    user: name.clone(),
                    max_spend: None,
                    is_deleted: false,
                };
                self.put_function(function.clone());
                Ok(function)
            }
        }
    }

    fn put_function(&mut self, function: Function) {
        self.effects.changes.push(Change::Function(function.clone()));
        self.functions.insert(function.name.clone(), function);
    }

    /// Has a function run nothing any more. Errors while its tasks run.
    pub fn delete_function(&mut self, name: &FunctionName) -> Result<(), BankError> {
        if self
            .sessions
            .values()
            .any(|session| session.task.function == *name)
        {
            return Err(BankError::FunctionRuns(name.clone()));
        }
        // Its limit goes with it.
        let function = self.limit_function(name, None)?;
        self.put_function(Function {
            is_deleted: true,
            ..function
        });
        Ok(())
    }

    /// Who pays for a function.
    pub fn payer(&self, function: &FunctionName) -> Result<UserView, BankError> {
        self.view(&self.function(function)?.user)
    }

    pub fn function(&self, name: &FunctionName) -> Result<&Function, BankError> {
        self.functions
            .get(name)
            .filter(|function| !function.is_deleted)
            .ok_or_else(|| BankError::UnknownFunction(name.clone()))
    }

    /// Sets a function's spending limit, an hour; `None` for none.
    pub fn limit_function(
        &mut self,
        name: &FunctionName,
        max_spend: Option<Amount>,
    ) -> Result<Function, BankError> {
        let mut function = self.function(name)?.clone();
        let owner = function.user.clone();
        let Some(state) = self.users.get_mut(&owner) else {
            return Err(self.unknown_user(&owner));
        };
        check_spending(max_spend, &state.user.settings)?;
        if function.max_spend != max_spend {
            function.max_spend = max_spend;
            self.effects.changes.push(Change::Function(function.clone()));
            self.functions.insert(name.clone(), function.clone());
            let limited = |function: &Function| function.user == owner && function.max_spend.is_some();
            state.has_limited_functions = self.functions.values().any(limited);
            self.share_out(&owner, &Cause::Funds);
        }
        Ok(function)
    }

    /// The buckets that are a user's: a deleted function leaves its behind.
    pub fn buckets(&self, of: &UserName) -> Vec<FunctionName> {
        let own = self.functions.values().filter(|function| function.user == *of);
        own.map(|function| function.name.clone()).collect()
    }

    /// Every function, or every one of a user.
    pub fn functions(&self, of: Option<&UserName>) -> Vec<Function> {
        self.functions
            .values()
            .filter(|function| !function.is_deleted && of.is_none_or(|wanted| *wanted == function.user))
            .cloned()
            .collect()
    }
}
