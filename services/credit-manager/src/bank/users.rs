//! Users and their functions.

use units::{Amount, FunctionName, MilliCores, Standing, UserName};

use super::grants::Cause;
use super::{Bank, BankError, Change};
use crate::users::{SettingsPatch, User, UserState};

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
    pub live_sessions: usize,
}

impl Bank {
    pub fn has_user(&self, name: &UserName) -> bool {
        self.users.contains_key(name)
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
        let state = self
            .users
            .get_mut(name)
            .ok_or_else(|| BankError::UnknownUser(name.clone()))?;
        let settings = state.user.settings.patched(patch);
        if settings != state.user.settings {
            state.user.settings = settings;
            self.effects.changes.push(Change::User(state.user.clone()));
            self.share_out(name, &Cause::Funds);
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
            capacity: capacities.map(|session| session.capacity).sum(),
            live_sessions: state.sessions.len(),
        }
    }

    /// Registers a function to the user who pays for it. The same again is no error.
    pub fn create_function(&mut self, function: FunctionName, name: &UserName) -> Result<(), BankError> {
        self.user(name)?;
        match self.functions.get(&function) {
            Some(owner) if owner == name => Ok(()),
            Some(owner) => Err(BankError::FunctionTaken {
                function,
                owner: owner.clone(),
            }),
            None => {
                self.effects
                    .changes
                    .push(Change::Function(function.clone(), name.clone()));
                self.functions.insert(function, name.clone());
                Ok(())
            }
        }
    }

    /// Who pays for a function.
    pub fn payer(&self, function: &FunctionName) -> Result<UserView, BankError> {
        let unknown = || BankError::UnknownFunction(function.clone());
        self.view(self.functions.get(function).ok_or_else(unknown)?)
    }

    /// Every function, or every one of a user.
    pub fn functions(&self, of: Option<&UserName>) -> Vec<(FunctionName, UserName)> {
        self.functions
            .iter()
            .filter(|(_, user)| of.is_none_or(|wanted| wanted == *user))
            .map(|(function, user)| (function.clone(), user.clone()))
            .collect()
    }
}
